"""A sticker scene as data: what stands where, which layouts are legal, what places and relations mean.

Coordinates are whole pixels of the 256 x 256 canvas, x right, y down; a sticker's place is its centre.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .vocabulary import SIGN, VOCABULARY

V = VOCABULARY
MOST_OBJECTS = 5
BESIDE = 8  # pixels between the boxes of two stickers placed side by side
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}


@dataclass(frozen=True)
class Sticker:
    noun: str
    color: str | None  # None: its own colours
    size: str
    cx: int
    cy: int
    text: str | None = None  # the word of a sign

    @property
    def side(self) -> int:
        """Side of its square box, white border included."""
        return V.sizes[self.size] + 2 * V.border

    @property
    def look(self) -> tuple:
        """What it looks like, wherever it stands."""
        return self.noun, self.color, self.size, self.text

    @property
    def corner(self) -> tuple[int, int]:
        """Top left pixel (x, y) of its box."""
        return self.cx - self.side // 2, self.cy - self.side // 2

    def at(self, cx: int, cy: int) -> "Sticker":
        """The same sticker with its centre there, then clamped into the canvas."""
        low, high = reach(self.side)
        return replace(self, cx=min(max(cx, low), high), cy=min(max(cy, low), high))

    def resized(self, size: str) -> "Sticker":
        """Another size; the centre stays, then is clamped into the canvas."""
        return replace(self, size=size).at(self.cx, self.cy)

    def to_json(self) -> dict[str, Any]:
        entry = {"noun": self.noun, "color": self.color, "size": self.size, "cx": self.cx, "cy": self.cy}
        return entry if self.text is None else entry | {"text": self.text}


@dataclass(frozen=True)
class Scene:
    background: str
    style: str
    filter: str | None = None
    objects: tuple[Sticker, ...] = ()

    def count(self, noun: str) -> int:
        return sum(one.noun == noun for one in self.objects)

    def with_object(self, index: int, sticker: Sticker) -> "Scene":
        """The scene with one object exchanged."""
        return replace(self, objects=(*self.objects[:index], sticker, *self.objects[index + 1 :]))

    def to_json(self) -> dict[str, Any]:
        return {
            "version": 1,
            "canvas": V.canvas,
            "background": self.background,
            "style": self.style,
            "filter": self.filter,
            "objects": [one.to_json() for one in self.objects],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Scene":
        """Read the JSON of `SCENES.md` section 1. Raises ValueError for unknown keys or an illegal scene."""
        known = {"version", "canvas", "background", "style", "filter", "objects"}
        if unknown := set(data) - known:
            raise ValueError(f"unknown keys in the scene: {sorted(unknown)}; known are {sorted(known)}")
        if data.get("version", 1) != 1 or data.get("canvas", V.canvas) != V.canvas:
            raise ValueError(
                f"a scene must have version 1 and canvas {V.canvas}, "
                f"not {data.get('version')} and {data.get('canvas')}"
            )
        try:
            objects = tuple(Sticker(**one) for one in data["objects"])
            scene = cls(data["background"], data["style"], data.get("filter"), objects)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a scene: {error}") from None
        check(scene)
        return scene


def reach(side: int) -> tuple[int, int]:
    """Lowest and highest centre coordinate of a box of that side."""
    return side // 2 + V.margin, V.canvas - V.margin - side // 2


def apart(a: Sticker, b: Sticker) -> bool:
    """Whether two boxes keep the gap."""
    need = (a.side + b.side) // 2 + V.gap
    return abs(a.cx - b.cx) >= need or abs(a.cy - b.cy) >= need


def _sticker_problems(one: Sticker) -> list[str]:
    """What is wrong with a sticker by itself."""
    if one.noun not in V.nouns:
        return [f"unknown noun {one.noun!r}"]
    if one.size not in V.sizes:
        return [f"unknown size {one.size!r} of the {one.noun}; sizes are {', '.join(V.sizes)}"]
    if not all(type(value) is int for value in (one.cx, one.cy)):
        return [f"the centre of the {one.noun} must be whole pixels, not ({one.cx!r}, {one.cy!r})"]
    found = []
    if one.color is not None:
        if one.color not in V.colors:
            found.append(f"unknown color {one.color!r}; colors are {', '.join(V.colors)}")
        elif not V.nouns[one.noun].tintable:
            found.append(f"the {one.noun} has one colouring only, not {one.color}")
    if one.noun == SIGN and one.text not in V.words:
        found.append(f"a sign needs one of the words {', '.join(V.words)}, not {one.text!r}")
    if one.noun != SIGN and one.text is not None:
        found.append(f"only a sign has text, not the {one.noun}")
    low, high = reach(one.side)
    if not (low <= one.cx <= high and low <= one.cy <= high):
        found.append(f"the centre ({one.cx}, {one.cy}) of the {one.size} {one.noun} is outside {low}..{high}")
    return found


def problems(scene: Scene) -> list[str]:
    """Every reason why the scene is not legal, as sentences; empty when it is."""
    found = []
    if scene.background not in V.backgrounds:
        found.append(f"unknown background {scene.background!r}")
    if scene.style not in V.styles:
        found.append(f"unknown style {scene.style!r}")
    if scene.filter is not None and scene.filter not in V.filters:
        found.append(f"unknown filter {scene.filter!r}")
    if len(scene.objects) > MOST_OBJECTS:
        found.append(f"{len(scene.objects)} objects; at most {MOST_OBJECTS} fit")
    own = [problem for one in scene.objects for problem in _sticker_problems(one)]
    return found + own if own else found + _pair_problems(scene.objects)


def _pair_problems(objects: tuple[Sticker, ...]) -> list[str]:
    found = []
    for i, a in enumerate(objects):
        for b in objects[i + 1 :]:
            if not apart(a, b):
                found.append(f"the {a.noun} at ({a.cx}, {a.cy}) is too near the {b.noun} at ({b.cx}, {b.cy})")
            if b.noun in V.rivals(a.noun):
                found.append(f"{a.noun} and {b.noun} never stand together")
    if sum(one.noun == SIGN for one in objects) > 1:
        found.append("more than one sign")
    return found


def legal(scene: Scene) -> bool:
    return not problems(scene)


def check(scene: Scene) -> None:
    """Raise ValueError with everything that is wrong with the scene."""
    if found := problems(scene):
        raise ValueError("not a legal scene: " + "; ".join(found))


def region(one: Sticker) -> tuple[int, int]:
    """(row, column) of the 3 x 3 grid in which the centre lies."""
    low, high = V.region_bounds
    return tuple(0 if value < low else 1 if value < high else 2 for value in (one.cy, one.cx))


def at_place(one: Sticker, row: int, column: int) -> Sticker:
    """The sticker at a place of the 3 x 3 grid."""
    return one.at(V.anchors[column], V.anchors[row])


def relation(a: Sticker, b: Sticker) -> str | None:
    """How a stands to b: left, right, above, below, or None when the direction is not clear."""
    dx, dy = a.cx - b.cx, a.cy - b.cy
    if dx == 0 and dy == 0:
        return None
    if abs(dx) >= 1.5 * abs(dy):
        return "left" if dx < 0 else "right"
    if abs(dy) >= 1.5 * abs(dx):
        return "above" if dy < 0 else "below"
    return None


def beside(one: Sticker, other: Sticker, direction: str) -> Sticker:
    """The sticker in line with another, 8 pixels between their boxes; an illegal place if off the canvas."""
    step_x, step_y = DIRECTIONS[direction]
    distance = (one.side + other.side) // 2 + BESIDE
    clamped = one.at(other.cx, other.cy)
    if step_x:
        return replace(clamped, cx=other.cx + step_x * distance)
    return replace(clamped, cy=other.cy + step_y * distance)
