"""Scenes for the diffusion transformer: common nouns and anchors get their shares, and nothing else changes."""

import pytest

from train.config import load_config
from train.data.pairs import ScenePairs
from train.data.scenes import CATEGORIES, VOCABULARY, unseen_pairs
from train.data.scenes.scene import at_place, region
from train.data.scenes.vocabulary import SIGN

COMMON = ("apple", "car", "cat", "dog", "fish", "house", "star", "tree")


def pairs(**settings) -> ScenePairs:
    return ScenePairs(0, 30, 40, (4, 8, 8), 1, **settings)


def nouns(items: ScenePairs, index: int) -> set[str]:
    first, second, _ = items.edits(index)
    return {one.noun for scene in (first.source, first.target, second.target) for one in scene.objects} - {SIGN}


def words(items: ScenePairs, index: int) -> set[str]:
    first, _, _ = items.edits(index)
    return {one.text for one in (*first.source.objects, *first.target.objects) if one.text}


def on_anchors(items: ScenePairs, index: int) -> bool:
    first, _, _ = items.edits(index)
    return all(at_place(one, *region(one)) == one for one in first.source.objects)


def test_common_nouns_have_their_share_of_the_items():
    some, all_of_them = pairs(common=COMMON, common_share=0.5), pairs(common=COMMON, common_share=1.0)
    common = [nouns(some, index) <= set(COMMON) for index in range(40)]
    assert 10 < sum(common) < 30
    assert set().union(*(nouns(all_of_them, index) for index in range(40))) == set(COMMON)
    assert len(VOCABULARY.drawn_nouns) > 100  # whole again


def test_no_training_picture_shows_a_pair_that_is_kept_for_tests():
    """By the bundled checkpoint's own settings."""
    stage = load_config("stickers-256").stages["edit"]
    some = pairs(
        common=stage.common_nouns, common_share=stage.common_share, common_words=stage.common_words,
        sampling=stage.scene_sampling, edit_weights=stage.edit_weights,
    )  # fmt: skip
    for index in range(150):
        first, second, _ = some.edits(index)
        assert not any(unseen_pairs(scene) for scene in (first.source, first.target, second.source, second.target))


def test_signs_of_common_scenes_say_common_words():
    signs = {"edit_weights": dict.fromkeys(CATEGORIES, 0.0) | {"text_change": 1.0}}
    some = pairs(common=COMMON, common_share=1.0, common_words=("STOP", "GO"), **signs)
    assert set().union(*(words(some, index) for index in range(10))) == {"STOP", "GO"}
    rarely = pairs(common=COMMON, common_share=0.5, common_words=("STOP", "GO"), **signs)
    assert 3 < sum(words(rarely, index) <= {"STOP", "GO"} for index in range(20)) < 17


def test_anchors_have_their_share_of_the_scenes():
    half, all_of_them = (pairs(sampling={"p_anchor_layout": share}) for share in (0.5, 1.0))
    assert 10 < sum(on_anchors(half, index) for index in range(40)) < 30
    assert all(on_anchors(all_of_them, index) for index in range(40))
    assert VOCABULARY.sampling["p_anchor_layout"] == 0.4  # whole again


def test_relations_have_their_share_of_the_captions():
    always, never = (pairs(sampling={"p_relation": share, "p_places": 0.0}) for share in (1.0, 0.0))
    told = [word for words in VOCABULARY.grammar["relations"].values() for word in words]

    def related(some):
        return sum(any(words in some[index]["texts"][2] for words in told) for index in range(20))

    assert related(always) >= 4 and related(never) == 0  # single objects and diagonal pairs have no relation


def test_edits_come_by_their_weights():
    rare = pairs(edit_weights=dict.fromkeys(CATEGORIES, 0.0) | {"swap": 1.0, "resize": 3.0})
    first = [rare.edits(index)[0].category for index in range(40)]
    assert set(first) == {"swap", "resize"} and first.count("resize") > 20
    assert len({rare.edits(index)[1].category for index in range(40)}) > 5  # the second is any


def test_without_a_share_items_are_what_they_were():
    plain, listed = pairs(), pairs(common=COMMON)
    assert all(plain.edits(index)[:2] == listed.edits(index)[:2] for index in range(5))


def test_names_and_numbers_that_cannot_be_are_told():
    with pytest.raises(ValueError, match="no appel"):
        pairs(common=("appel",), common_share=0.5)
    with pytest.raises(ValueError, match="signs never say HALT"):
        pairs(common_words=("STOP", "HALT"))
    with pytest.raises(ValueError, match="it takes two"):
        pairs(common_words=("STOP",))
    with pytest.raises(ValueError, match="sampling has no p_anchor"):
        pairs(sampling={"p_anchor": 0.5})
    with pytest.raises(ValueError, match="unknown edit category repaint; known are subject_add"):
        pairs(edit_weights={"repaint": 1.0})
    with pytest.raises(ValueError, match="not all 0"):
        pairs(edit_weights={"swap": -1.0})
    with pytest.raises(ValueError, match="common nouns are 2"):
        pairs(common=COMMON[:2], common_share=0.5)


def test_common_nouns_of_which_no_scene_can_be_made_are_told():
    with pytest.raises(ValueError, match="common nouns are 3 that can stand in one scene, which may need 6"):
        pairs(common=("tree", "pine tree", "palm tree", "bear", "teddy bear", "cat"), common_share=0.5)
    plain = ("panda", "penguin", "bee", "spider", "pizza", "camera")
    with pytest.raises(ValueError, match="of the common nouns none can be coloured"):
        pairs(common=plain, common_share=0.5)
    with pytest.raises(ValueError, match="of the common nouns pine tree, tree can be coloured; .* two that stand"):
        pairs(common=(*plain, "tree", "pine tree"))  # they are asked for by prompts, however seldom they are shown
    assert len(pairs(common=(*plain, "tree", "cat"), common_share=1.0)) == 40
