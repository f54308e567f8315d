"""What a text says about a picture, and whether what was found in the picture agrees. What is not said is free."""

from collections import Counter
from dataclasses import dataclass

from train.data.scenes import VOCABULARY, Scene, Sticker
from train.data.scenes.scene import region, relation

from .finder import Found, Sight, find
from .judge import Verdict, same_color

V = VOCABULARY
SLACK = 4  # pixels by which a sticker may miss its region
CLEAR = 1.2  # a relation holds when its direction is so many times the other; texts claim it from 1.5 on


@dataclass(frozen=True)
class Wanted:
    """So many stickers of a noun, with what is said of them."""

    noun: str
    count: int = 1
    color: str | None = None
    size: str | None = None
    text: str | None = None
    place: tuple[int, int] | None = None  # row, column


@dataclass(frozen=True)
class Claims:
    objects: tuple[Wanted, ...]
    relation: str | None = None  # of the first to the second
    background: str | None = None
    style: str | None = None
    only: bool = False  # whether nothing else may be there


def claims_of(scene: Scene) -> Claims:
    """Everything that can be said of an unfiltered scene with every attribute of every sticker."""
    looks = Counter(one.look for one in scene.objects)
    wanted = []
    for one in scene.objects:
        count = looks.pop(one.look, None)
        if count is not None:
            place = region(one) if count == 1 else None
            wanted.append(Wanted(one.noun, count, one.color, one.size, one.text, place))
    singles = len(scene.objects) >= 2 and wanted[0].count == wanted[min(1, len(wanted) - 1)].count == 1
    related = relation(*scene.objects[:2]) if singles else None
    return Claims(tuple(wanted), related, scene.background, scene.style, only=True)


def judge_claims(picture, claims: Claims) -> Verdict:
    """Whether a uint8 (256, 256, 3) picture without filter shows what is claimed."""
    return compare(find(picture), claims)


def compare(sight: Sight, claims: Claims) -> Verdict:
    checks, notes = {}, {}
    seen = Counter(one.sticker.noun for one in sight.objects)
    said = Counter()
    for wanted in claims.objects:
        said[wanted.noun] += wanted.count
    for noun, count in said.items():
        checks[f"count of {noun}"] = seen[noun] == count
    for index, wanted in enumerate(claims.objects):
        for name in ("color", "size", "text", "place"):
            if getattr(wanted, name) is not None:
                checks[f"{name} {index}"] = len(_matching(sight, wanted, (name,))) >= wanted.count
        # Each attribute may be somewhere; together they must be on the same sticker.
        both = _matching(sight, wanted, ("color", "size", "text", "place"))
        checks[f"object {index}"] = len(both) >= wanted.count
    if claims.relation is not None:
        first, second = (_matching(sight, wanted, ("color", "text")) for wanted in claims.objects[:2])
        checks["relation"] = any(
            holds(a.sticker, claims.relation, b.sticker) for a in first for b in second if a is not b
        )
    if claims.background is not None:
        checks["background"] = sight.background == claims.background
    if claims.style is not None and sight.objects:
        checks["style"] = sight.style == claims.style
    if claims.only:
        checks["nothing else"] = sum(seen.values()) == sum(said.values())
    if not all(checks.values()):
        notes["seen"] = describe(sight)
    return Verdict(checks, notes, {"objects": float(len(sight.objects))})


def _matching(sight: Sight, wanted: Wanted, names: tuple[str, ...]) -> list[Found]:
    return [
        one
        for one in sight.objects
        if one.sticker.noun == wanted.noun and all(_agrees(one, name, getattr(wanted, name)) for name in names)
    ]


def _agrees(one: Found, name: str, value) -> bool:
    if value is None:
        return True
    if name == "color":
        return same_color(one.sticker.noun, one.style, one.sticker.color, value)
    if name == "place":
        return in_region(one.sticker, *value)
    return getattr(one.sticker, name) == value


def in_region(one: Sticker, row: int, column: int) -> bool:
    """Whether the sticker lies in a part of the 3 x 3 grid, give or take a few pixels."""
    bounds = (-V.canvas, *V.region_bounds, 2 * V.canvas)

    def within(value: int, part: int) -> bool:
        return bounds[part] - SLACK <= value < bounds[part + 1] + SLACK

    return within(one.cy, row) and within(one.cx, column)


def holds(a: Sticker, direction: str, b: Sticker) -> bool:
    """Whether a stands to b as said; a little less strict than the texts that claim it."""
    dx, dy = a.cx - b.cx, a.cy - b.cy
    along, across = (dx, dy) if direction in ("left", "right") else (dy, dx)
    signed = -along if direction in ("left", "above") else along
    return signed > 0 and signed >= CLEAR * abs(across)


def describe(sight: Sight) -> str:
    """What was found, in words for a report."""
    words = [
        " ".join(word for word in (one.sticker.size, one.sticker.color, one.sticker.noun) if word)
        + f" at ({one.sticker.cx}, {one.sticker.cy})"
        for one in sight.objects
    ]
    return f"{', '.join(words) or 'no sticker'}; background {sight.background}; style {sight.style}"
