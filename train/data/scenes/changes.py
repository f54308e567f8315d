"""The kinds of edit: each maker turns a source scene into a target scene and the words of the instruction.

A maker returns None when this scene, with these random choices, allows no such edit. `MAKERS` lists them by
category with the share that each has in it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .captions import object_phrase
from .references import reference
from .sample import chance, colors_of, pick, sample_color, sample_noun
from .scene import DIRECTIONS, MOST_OBJECTS, Scene, Sticker, at_place, beside, legal, reach, relation
from .vocabulary import SIGN, VOCABULARY

V = VOCABULARY
G = V.grammar
LEAST_MOVE = 24  # |dx| + |dy| in pixels
ADD_SIGN, SAY_NEW_SIZE = 0.05, 0.5

Rng = np.random.Generator
Change = tuple[Scene, dict[str, str]]  # the target scene and the words of the instruction


@dataclass(frozen=True)
class Maker:
    """One kind of edit: how to make it, its share within the category, and what source scene it needs."""

    make: Callable[[Scene, Rng, bool], Change | None]
    share: float = 1.0
    needs: Mapping[str, Any] = field(default_factory=dict)  # arguments of sample_scene


def shuffled(rng: Rng, options) -> list:
    options = list(options)
    return [options[i] for i in rng.permutation(len(options))]


def _any_index(scene: Scene, rng: Rng) -> int:
    return int(rng.integers(len(scene.objects)))


def _places(rng: Rng) -> list[tuple[int, int]]:
    return shuffled(rng, [(row, column) for row in range(3) for column in range(3)])


def _place_words(rng: Rng, row: int, column: int) -> dict[str, str]:
    variants = G["place_variants"][G["places"][row][column]]
    return {"place": pick(rng, variants), "place_to": G["places_to"][row][column]}


def _repeated(scene: Scene, rng: Rng) -> str | None:
    """A noun that the scene has more than once."""
    nouns = sorted({one.noun for one in scene.objects if scene.count(one.noun) > 1})
    return pick(rng, nouns) if nouns else None


def _group_words(noun: str) -> dict[str, str]:
    return {"noun": noun, "plural": V.nouns[noun].plural}


# --- subject_add, subject_remove, subject_replace


def _newcomer(scene: Scene, rng: Rng, unseen: bool) -> tuple[Sticker, str]:
    """A sticker of a noun that the scene has not, and its phrase; its place is still open."""
    present = [one.noun for one in scene.objects]
    if SIGN not in present and chance(rng, ADD_SIGN):
        noun, text = SIGN, pick(rng, V.words)
    else:
        noun, text = sample_noun(rng, present), None
    size = pick(rng, list(V.sizes)) if chance(rng, SAY_NEW_SIZE) else None
    color = sample_color(rng, noun, unseen)
    return Sticker(noun, color, size or "medium", 0, 0, text), object_phrase(noun, color, size, text)


def _with_new(scene: Scene, sticker: Sticker) -> Scene | None:
    target = replace(scene, objects=(*scene.objects, sticker))
    return target if legal(target) else None


def _add_absolute(scene: Scene, rng: Rng, unseen: bool) -> Change | None:
    if len(scene.objects) == MOST_OBJECTS:
        return None
    sticker, phrase = _newcomer(scene, rng, unseen)
    for row, column in _places(rng):
        if target := _with_new(scene, at_place(sticker, row, column)):
            return target, {"new": phrase} | _place_words(rng, row, column)
    return None


def _add_relative(scene: Scene, rng: Rng, unseen: bool) -> Change | None:
    if len(scene.objects) in (0, MOST_OBJECTS):
        return None
    sticker, phrase = _newcomer(scene, rng, unseen)
    index = _any_index(scene, rng)
    ref = reference(scene, index, rng)
    for direction in shuffled(rng, DIRECTIONS) if ref else ():
        if target := _with_new(scene, beside(sticker, scene.objects[index], direction)):
            return target, {"new": phrase, "rel": pick(rng, G["relations"][direction]), "ref": ref}
    return None


def _remove_one(scene: Scene, rng: Rng, unseen: bool) -> Change | None:
    if len(scene.objects) < 2:
        return None
    index = _any_index(scene, rng)
    ref = reference(scene, index, rng)
    rest = scene.objects[:index] + scene.objects[index + 1 :]
    return (replace(scene, objects=rest), {"ref": ref}) if ref else None


def _remove_all(scene: Scene, rng: Rng, unseen: bool) -> Change | None:
    noun = _repeated(scene, rng)
    rest = tuple(one for one in scene.objects if one.noun != noun)
    return (replace(scene, objects=rest), _group_words(noun)) if noun and rest else None


def _replace_one(scene: Scene, rng: Rng, unseen: bool) -> Change | None:
    if not scene.objects:
        return None
    index = _any_index(scene, rng)
    ref, old = reference(scene, index, rng), scene.objects[index]
    new, _ = _newcomer(scene, rng, unseen)
    new = replace(new, size=old.size, cx=old.cx, cy=old.cy)
    target = scene.with_object(index, new)
    phrase = object_phrase(new.noun, new.color, None, new.text)
    return (target, {"ref": ref, "new": phrase}) if ref and legal(target) else None


# --- color_alter


def _new_color(stickers: list[Sticker], style: str, rng: Rng, unseen: bool) -> str | None:
    """A colour that none of these stickers of one noun has, nor seems to have."""
    taken = {one.color for one in stickers}
    if None in taken:
        taken.update(V.nouns[stickers[0].noun].native(style))
    free = [color for color in colors_of(stickers[0].noun, unseen) if color not in taken]
    return pick(rng, free) if free else None


def _color_one(scene: Scene, rng: Rng, unseen: bool) -> Change | None:
    if not scene.objects:
        return None
    index = _any_index(scene, rng)
    one, ref = scene.objects[index], reference(scene, index, rng)
    color = _new_color([one], scene.style, rng, unseen)
    if ref is None or color is None:
        return None
    return scene.with_object(index, replace(one, color=color)), {"ref": ref, "color": color}


def _color_all(scene: Scene, rng: Rng, unseen: bool) -> Change | None:
    noun = _repeated(scene, rng)
    if noun is None:
        return None
    color = _new_color([one for one in scene.objects if one.noun == noun], scene.style, rng, unseen)
    if color is None:
        return None
    objects = tuple(replace(one, color=color) if one.noun == noun else one for one in scene.objects)
    return replace(scene, objects=objects), _group_words(noun) | {"color": color}


# --- background_change, style_change, tone_transfer


def _background(kind: str) -> Callable:
    def make(scene: Scene, rng: Rng, unseen: bool) -> Change:
        free = [one for one in V.backgrounds.values() if one.kind == kind and one.name != scene.background]
        new = pick(rng, free)
        return replace(scene, background=new.name), {"bg": new.name if kind == "plain" else new.edit}

    return make


def _style(name: str) -> Callable:
    def make(scene: Scene, rng: Rng, unseen: bool) -> Change | None:
        if scene.style == name or not scene.objects:
            return None
        return replace(scene, style=name), {}

    return make


def _filter(name: str) -> Callable:
    def make(scene: Scene, rng: Rng, unseen: bool) -> Change:
        return replace(scene, filter=name), {}

    return make


# --- motion_change, resize, swap, text_change


def _moved(scene: Scene, index: int, new: Sticker) -> Scene | None:
    """The scene with the object elsewhere, if that is legal and far enough to be seen."""
    old, target = scene.objects[index], scene.with_object(index, new)
    far = abs(new.cx - old.cx) + abs(new.cy - old.cy) >= LEAST_MOVE
    return target if far and legal(target) else None


def _move_absolute(scene: Scene, rng: Rng, unseen: bool) -> Change | None:
    if not scene.objects:
        return None
    index = _any_index(scene, rng)
    ref = reference(scene, index, rng)
    for row, column in _places(rng) if ref else ():
        if target := _moved(scene, index, at_place(scene.objects[index], row, column)):
            return target, {"ref": ref} | _place_words(rng, row, column)
    return None


def _move_edge(scene: Scene, rng: Rng, unseen: bool) -> Change | None:
    if not scene.objects:
        return None
    index = _any_index(scene, rng)
    ref, one = reference(scene, index, rng), scene.objects[index]
    low, high = reach(one.side)
    ends = {
        "to the left": replace(one, cx=low),
        "to the right": replace(one, cx=high),
        "to the top": replace(one, cy=low),
        "to the bottom": replace(one, cy=high),
    }
    for words in shuffled(rng, ends) if ref else ():
        if target := _moved(scene, index, ends[words]):
            return target, {"ref": ref, "dir": words}
    return None


def _two(scene: Scene, rng: Rng) -> tuple[int, int, str, str] | None:
    """Two different objects, each with a phrase of its own."""
    if len(scene.objects) < 2:
        return None
    first, second = (int(i) for i in rng.permutation(len(scene.objects))[:2])
    ref, ref2 = reference(scene, first, rng), reference(scene, second, rng)
    return (first, second, ref, ref2) if ref and ref2 else None


def _move_relative(scene: Scene, rng: Rng, unseen: bool) -> Change | None:
    if (two := _two(scene, rng)) is None:
        return None
    first, second, ref, ref2 = two
    one, other = scene.objects[first], scene.objects[second]
    for direction in shuffled(rng, DIRECTIONS):
        if direction == relation(one, other):
            continue
        if target := _moved(scene, first, beside(one, other, direction)):
            return target, {"ref": ref, "ref2": ref2, "rel": pick(rng, G["relations"][direction])}
    return None


def _resize(step: int) -> Callable:
    """To the next size up (1) or down (-1), or, with 0, to a named one."""

    def make(scene: Scene, rng: Rng, unseen: bool) -> Change | None:
        if not scene.objects:
            return None
        index = _any_index(scene, rng)
        ref, one, sizes = reference(scene, index, rng), scene.objects[index], list(V.sizes)
        wanted = sizes.index(one.size) + step
        size = sizes[wanted] if 0 <= wanted < len(sizes) else None
        if step == 0:
            size = pick(rng, [name for name in sizes if name != one.size])
        if ref is None or size is None:
            return None
        target = scene.with_object(index, one.resized(size))
        return (target, {"ref": ref, "size": size}) if legal(target) else None

    return make


def _swap(scene: Scene, rng: Rng, unseen: bool) -> Change | None:
    if (two := _two(scene, rng)) is None:
        return None
    first, second, ref, ref2 = two
    one, other = scene.objects[first], scene.objects[second]
    if one.look == other.look:  # nothing would change
        return None
    target = scene.with_object(first, one.at(other.cx, other.cy))
    target = target.with_object(second, other.at(one.cx, one.cy))
    return (target, {"ref": ref, "ref2": ref2}) if legal(target) else None


def _new_word(scene: Scene, rng: Rng, unseen: bool) -> Change | None:
    for index, one in enumerate(scene.objects):
        if one.noun == SIGN:
            word = pick(rng, [word for word in V.words if word != one.text])
            return scene.with_object(index, replace(one, text=word)), {"old": one.text, "word": word}
    return None


MAKERS: dict[str, dict[str, Maker]] = {
    "subject_add": {"absolute": Maker(_add_absolute), "relative": Maker(_add_relative)},
    "subject_remove": {
        "one": Maker(_remove_one, 0.8),
        "all": Maker(_remove_all, 0.2, {"counting": True, "extra": True}),
    },
    "subject_replace": {"one": Maker(_replace_one)},
    "color_alter": {"one": Maker(_color_one, 0.8), "all": Maker(_color_all, 0.2, {"counting": True})},
    "background_change": {"plain": Maker(_background("plain")), "scene": Maker(_background("scene"))},
    "style_change": {
        "outlined": Maker(_style("outlined")),
        "flat": Maker(_style("flat")),
        "pixel": Maker(_filter("pixel")),
        "sketch": Maker(_filter("sketch")),
    },
    "tone_transfer": {name: Maker(_filter(name)) for name in G["edits"]["tone_transfer"]},
    "motion_change": {
        "absolute": Maker(_move_absolute),
        "edge": Maker(_move_edge),
        "relative": Maker(_move_relative),
    },
    "resize": {"bigger": Maker(_resize(1)), "smaller": Maker(_resize(-1)), "to": Maker(_resize(0))},
    "swap": {"two": Maker(_swap)},
    "text_change": {"word": Maker(_new_word, needs={"sign": True})},
}
