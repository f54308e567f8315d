"""How an instruction names one object of a scene so that no other object can be meant."""

from collections.abc import Iterable

import numpy as np

from .sample import chance, pick
from .scene import Scene, Sticker
from .vocabulary import VOCABULARY

V = VOCABULARY
CLEAR = 20  # pixels by which the leftmost ... must lie before the next
EXTRA_WORD = 0.25  # how often a size or a colour is said although the noun alone would do
EDGES = {"leftmost": ("cx", 1), "rightmost": ("cx", -1), "topmost": ("cy", 1), "bottommost": ("cy", -1)}


def _may_be_called(one: Sticker, color: str, style: str) -> bool:
    """Whether a reader could take the sticker for one of that colour."""
    if one.color is not None:
        return one.color == color
    return color in V.nouns[one.noun].native(style)


def matches(scene: Scene, noun: str, size: str | None, color: str | None) -> list[int]:
    """Indices of the objects that the words could mean."""
    return [
        index
        for index, one in enumerate(scene.objects)
        if one.noun == noun
        and (size is None or one.size == size)
        and (color is None or _may_be_called(one, color, scene.style))
    ]


def _words(one: Sticker) -> Iterable[tuple[str | None, str | None]]:
    """The true (size, colour) words that could be said of a sticker."""
    yield from ((one.size, None), (None, None))
    if one.color is not None:
        yield from ((None, one.color), (one.size, one.color))


def _edge_words(scene: Scene, index: int) -> list[str]:
    """leftmost, rightmost, ... where they are clearly true among the objects of the same noun."""
    one = scene.objects[index]
    others = [other for i, other in enumerate(scene.objects) if other.noun == one.noun and i != index]
    return [
        word
        for word, (axis, sign) in EDGES.items()
        if all(sign * (getattr(other, axis) - getattr(one, axis)) >= CLEAR for other in others)
    ]


def _phrase(noun: str, size: str | None, color: str | None) -> str:
    return " ".join(word for word in ("the", size, color, noun) if word)


def reference(scene: Scene, index: int, rng: np.random.Generator) -> str | None:
    """A phrase that names exactly this object, or None when there is no way to say it."""
    one = scene.objects[index]
    if scene.count(one.noun) == 1:
        size = one.size if chance(rng, EXTRA_WORD) else None
        color = one.color if one.color and chance(rng, EXTRA_WORD) else None
        return _phrase(one.noun, size, color)
    ways = [
        _phrase(one.noun, size, color)
        for size, color in _words(one)
        if matches(scene, one.noun, size, color) == [index]
    ]
    ways += [f"the {word} {one.noun}" for word in _edge_words(scene, index)]
    return pick(rng, ways) if ways else None
