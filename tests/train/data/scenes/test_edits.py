"""Edits: all kinds and phrasings, legal targets, clear references, nothing changed but what is named."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from train.data.scenes import (
    CATEGORIES,
    VOCABULARY,
    Edit,
    Scene,
    Sticker,
    draw,
    sample_edit,
    sample_scene,
    unseen_pairs,
)
from train.data.scenes.changes import MAKERS
from train.data.scenes.references import matches, reference
from train.data.scenes.scene import problems, reach, relation

V = VOCABULARY
KINDS = [(category, kind) for category, makers in MAKERS.items() for kind in makers]
EACH = 40


@pytest.fixture(scope="module")
def edits():
    rng = np.random.default_rng(21)
    return {key: [sample_edit(rng, key[0], kind=key[1]) for _ in range(EACH)] for key in KINDS}


def test_categories_are_those_of_the_vocabulary():
    assert set(CATEGORIES) == set(V.grammar["edits"]) and len(CATEGORIES) == 11
    assert {(c, k) for c, kinds in V.grammar["edits"].items() for k in kinds} == set(KINDS)


@pytest.mark.parametrize("key", KINDS, ids="-".join)
def test_edits_are_legal_seen_and_change_the_picture(edits, key):
    for edit in edits[key]:
        assert edit.category == key[0] and edit.source.filter is None
        assert not problems(edit.source) and not problems(edit.target), edit
        assert not unseen_pairs(edit.source) and not unseen_pairs(edit.target)
        assert (draw(edit.source) != draw(edit.target)).any()


@pytest.mark.parametrize("key", KINDS, ids="-".join)
def test_instructions_follow_the_grammar(edits, key):
    """Every phrasing is used, and what fills it is complete."""
    patterns = [
        re.compile(re.sub(r"\\\{\w+\\\}", ".+?", re.escape(phrase)) + "$")
        for phrase in V.grammar["edits"][key[0]][key[1]]
    ]
    used = Counter()
    for edit in edits[key]:
        found = [i for i, pattern in enumerate(patterns) if pattern.match(edit.instruction)]
        assert found and "{" not in edit.instruction and "None" not in edit.instruction, edit.instruction
        used.update(found)
    assert len(used) == len(patterns)


LOCAL = [
    "subject_add",
    "subject_remove",
    "subject_replace",
    "color_alter",
    "motion_change",
    "resize",
    "swap",
    "text_change",
]


@pytest.mark.parametrize("key", [key for key in KINDS if key[0] in LOCAL], ids="-".join)
def test_local_edits_leave_the_rest_to_the_pixel(edits, key):
    """Outside the boxes of the objects that differ, source and target are equal."""
    for edit in edits[key]:
        source, target = edit.source, edit.target
        assert (source.background, source.style, source.filter) == (
            target.background,
            target.style,
            target.filter,
        )
        touched = set(source.objects) ^ set(target.objects)
        outside = np.ones((256, 256), bool)
        for one in touched:
            x, y = one.corner
            outside[y : y + one.side, x : x + one.side] = False
        np.testing.assert_array_equal(draw(source)[outside], draw(target)[outside])


def test_whole_picture_edits_keep_the_objects(edits):
    for category in ("background_change", "style_change", "tone_transfer"):
        for key in KINDS:
            for edit in edits[key] if key[0] == category else ():
                assert edit.source.objects == edit.target.objects
                same = [
                    getattr(edit.source, name) == getattr(edit.target, name)
                    for name in ("background", "style", "filter")
                ]
                assert sum(same) == 2


def changed(edit):
    """(before, after) of the objects that keep their place in the list but differ."""
    pairs = zip(edit.source.objects, edit.target.objects, strict=True)
    return [(old, new) for old, new in pairs if old != new]


def test_adding_and_removing(edits):
    for kind in ("absolute", "relative"):
        for edit in edits["subject_add", kind]:
            assert edit.target.objects[:-1] == edit.source.objects
            assert edit.source.count(edit.target.objects[-1].noun) == 0
    for edit in edits["subject_remove", "one"]:
        assert len(edit.target.objects) == len(edit.source.objects) - 1 >= 1
    for edit in edits["subject_remove", "all"]:
        gone = {one.noun for one in edit.source.objects} - {one.noun for one in edit.target.objects}
        (noun,) = gone
        assert edit.source.count(noun) >= 2 and edit.target.objects
        assert noun in edit.instruction or V.nouns[noun].plural in edit.instruction


def test_replacing_and_recoloring(edits):
    for edit in edits["subject_replace", "one"]:
        ((old, new),) = changed(edit)
        assert (old.size, old.cx, old.cy) == (new.size, new.cx, new.cy) and edit.source.count(new.noun) == 0
    for kind in ("one", "all"):
        for edit in edits["color_alter", kind]:
            pairs = changed(edit)
            assert len(pairs) == (1 if kind == "one" else edit.source.count(pairs[0][0].noun))
            for old, new in pairs:
                assert replace(old, color=new.color) == new and new.color in edit.instruction
                if old.color is None:
                    assert new.color not in V.nouns[old.noun].native(edit.source.style)


def test_moving(edits):
    for edit in edits["motion_change", "edge"]:
        ((old, new),) = changed(edit)
        axis = "cx" if re.search(r"to the (left|right)$", edit.instruction) else "cy"
        end = reach(old.side)[0 if re.search(r"(left|top)$", edit.instruction) else 1]
        assert replace(old, **{axis: end}) == new
    for edit in edits["motion_change", "relative"]:
        ((old, new),) = changed(edit)
        others = [one for one in edit.source.objects if one != old]
        relations = {(one, relation(old, one), relation(new, one)) for one in others}
        assert any(before != after and after is not None for _, before, after in relations)
    for kind in ("absolute", "edge", "relative"):
        for edit in edits["motion_change", kind]:
            ((old, new),) = changed(edit)
            assert old.look == new.look and abs(old.cx - new.cx) + abs(old.cy - new.cy) >= 24


def test_resizing_swapping_rewriting(edits):
    sizes = list(V.sizes)
    for kind, step in {"bigger": 1, "smaller": -1}.items():
        for edit in edits["resize", kind]:
            ((old, new),) = changed(edit)
            assert sizes.index(new.size) - sizes.index(old.size) == step and new == old.resized(new.size)
    for edit in edits["resize", "to"]:
        ((old, new),) = changed(edit)
        assert new.size in edit.instruction and new.size != old.size
    for edit in edits["swap", "two"]:
        (old, new), (old2, new2) = changed(edit)
        assert new == old.at(old2.cx, old2.cy) and new2 == old2.at(old.cx, old.cy) and old.look != old2.look
    for edit in edits["text_change", "word"]:
        ((old, new),) = changed(edit)
        assert f'"{new.text}"' in edit.instruction and replace(new, text=old.text) == old


COLOR_WORDS = "|".join(V.colors)
NOUN_WORDS = "|".join(sorted(V.nouns, key=len, reverse=True))
REF = re.compile(
    r"the ((?:left|right|top|bottom)most )?((?:small|medium|large) )?"
    rf"((?:{COLOR_WORDS}) )?({NOUN_WORDS})(?!\w)"
)


def test_references_name_one_object(edits):
    """Read each reference back as a person would and count what it could mean."""
    seen = Counter()
    for edit in (edit for made in edits.values() for edit in made):
        for edge, size, color, noun in REF.findall(edit.instruction):
            if edit.category == "text_change":
                continue
            found = matches(edit.source, noun, size.strip() or None, color.strip() or None)
            if edge:
                axis, sign = ("cx" if edge[0] in "lr" else "cy"), (1 if edge[0] in "lt" else -1)
                places = sorted(sign * getattr(edit.source.objects[i], axis) for i in found)
                assert places[1] - places[0] >= 20, edit
            else:
                assert len(found) == 1, edit
            seen[bool(edge)] += 1
    assert seen[True] > 20 and seen[False] > 300


def test_repeated_nouns_are_told_apart_by_words():
    cats = (
        Sticker("cat", "red", "small", 43, 43),
        Sticker("cat", "red", "large", 150, 59),
        Sticker("cat", "green", "small", 43, 200),
    )
    scene = Scene("white", "flat", None, cats)
    rng = np.random.default_rng(0)
    said = [{reference(scene, i, rng) for _ in range(60)} for i in range(3)]
    assert said[0] == {"the small red cat"}  # not leftmost (two are), topmost by 16 pixels only
    assert said[1] == {"the large cat", "the large red cat", "the rightmost cat"}
    assert said[2] == {"the green cat", "the small green cat", "the bottommost cat"}


def test_an_own_color_may_be_read_as_the_color():
    """A horse in its own colours is brown, so "the brown horse" could mean it."""
    horses = (Sticker("horse", None, "small", 43, 43), Sticker("horse", "brown", "small", 50, 128))
    scene = Scene("white", "flat", None, horses)
    rng = np.random.default_rng(0)
    assert {reference(scene, 1, rng) for _ in range(40)} == {"the bottommost horse"}
    twins = replace(scene, objects=(horses[0], replace(horses[0], cx=120, cy=55)))
    assert {reference(twins, 0, rng) for _ in range(40)} == {"the leftmost horse"}


def test_same_seed_same_edits(edits):
    first = [sample_edit(np.random.default_rng(seed)) for seed in range(30)]
    assert [sample_edit(np.random.default_rng(seed)) for seed in range(30)] == first
    assert len({edit.category for edit in first}) > 6


def test_edits_of_a_given_scene():
    rng = np.random.default_rng(5)
    for _ in range(60):
        source = sample_scene(rng)
        edit = sample_edit(rng, source=source)
        assert edit.source == source and not problems(edit.target)
    alone = Scene("white", "flat", None, (Sticker("cat", None, "small", 128, 128),))
    with pytest.raises(ValueError, match="allows no swap edit"):
        sample_edit(rng, "swap", alone)
    with pytest.raises(ValueError, match="without filter, not from 'bw'"):
        sample_edit(rng, "swap", replace(alone, filter="bw"))
    with pytest.raises(ValueError, match="unseen pair.*blue"):
        sample_edit(rng, "resize", alone.with_object(0, replace(alone.objects[0], color="blue")))
    with pytest.raises(ValueError, match="unknown edit category 'paint'"):
        sample_edit(rng, "paint")
    with pytest.raises(ValueError, match="'swap' has no kind 'three'"):
        sample_edit(rng, "swap", kind="three")


def test_json_round_trip():
    edit = sample_edit(np.random.default_rng(1))
    assert Edit.from_json(edit.to_json()) == edit
