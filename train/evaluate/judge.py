"""Does a picture show what a scene says? For scenes whose places are known: the target of an edit.

Every attribute is one check: the expected value, drawn, must lie nearer to the picture than all alternatives drawn
in its stead. Stickers may be a few pixels off. Colours count as equal where a reader could not tell them apart: a
noun's own colours and the colour word that names them.
"""

from dataclasses import dataclass, field, replace
from operator import itemgetter

import numpy as np
from scipy.ndimage import gaussian_filter

from train.data.scenes import VOCABULARY, Scene, Sticker, draw
from train.data.scenes.filters import apply_filter
from train.data.scenes.vocabulary import SIGN

from .hypotheses import NEAR, Window, background_errors, every_look, pooled, size_fits, word_fits

V = VOCABULARY
FAR = 8  # pixels by which a sticker may be off
FINALISTS, OWN_FINALISTS = 12, 4  # looks that are fitted with shifts: of other nouns, of the expected one
EXPLAINED = 0.4  # share of the distance to the empty place that the expected sticker must take away
ALIKE = 2.0  # mean grey levels below which two backgrounds or filters count as the same
COLORLESS = frozenset({"bw", "sepia", "sketch"})  # filters under which colours cannot be read
CELL = 8  # pixels a side of the cells in which left-overs are looked for
# Blockiness from which a picture without the pixel filter counts as having it. Soft stickers of edits that have none
# reach 0.11, true pictures with it, after the tokenizer, stay above 0.22.
PIXELATED = 0.16
BLURS = (0.7, 1.2, 2, 3, 4)  # sigmas in pixels
LEFTOVER, LEFTOVER_CELLS = 24.0, 8  # grey levels in a cell, and so many cells, are something unexpected


@dataclass(frozen=True)
class Verdict:
    """The checks by name; what was seen instead where one failed; by how much each was decided."""

    checks: dict[str, bool]
    notes: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return all(self.checks.values())

    @property
    def failed(self) -> list[str]:
        return [name for name, passed in self.checks.items() if not passed]


@dataclass(frozen=True)
class Check:
    passed: bool
    note: str  # what was seen
    number: float  # how clearly


def require_picture(picture: np.ndarray) -> None:
    """Raise ValueError unless the array is a picture as the judge takes it."""
    if picture.shape != (V.canvas, V.canvas, 3) or picture.dtype != np.uint8:
        raise ValueError(
            f"the judge needs a uint8 picture of shape ({V.canvas}, {V.canvas}, 3), not {picture.dtype} {picture.shape}"
        )


def same_color(noun: str, style: str, a: str | None, b: str | None) -> bool:
    """Whether two colourings of a noun read alike."""
    native = V.nouns[noun].native(style)
    return a == b or (a is None and b in native) or (b is None and a in native)


def judge_scene(picture: np.ndarray, scene: Scene) -> Verdict:
    """Compare a uint8 (256, 256, 3) picture with a scene, every object at its place."""
    require_picture(picture)
    placed, error = _placed(picture, scene)
    checks = {"background": _background(picture, placed), "filter": _filter(picture, placed)}
    if scene.objects:
        other = next(style for style in V.styles if style != scene.style)
        _, rival = _placed(picture, replace(scene, style=other))
        checks["style"] = Check(error <= rival, other, (rival - error) / max(rival, 1e-6))
    for index, expected in enumerate(scene.objects):
        found = _object(picture, placed, index, expected)
        checks |= {f"{name} {index}": check for name, check in found.items()}
    cells = leftover_cells(picture, placed)
    checks["nothing else"] = Check(cells < LEFTOVER_CELLS, f"{cells} cells", float(cells))
    return Verdict(
        {name: bool(check.passed) for name, check in checks.items()},
        {name: check.note for name, check in checks.items() if not check.passed},
        {name: float(check.number) for name, check in checks.items()},
    )


def _without(scene: Scene, index: int) -> Scene:
    return replace(scene, objects=scene.objects[:index] + scene.objects[index + 1 :])


def _placed(picture: np.ndarray, scene: Scene) -> tuple[Scene, float]:
    """The scene with its stickers shifted to where they fit best, and the sum of their errors."""
    total = 0.0
    for index, one in enumerate(scene.objects):
        window = Window.around(picture, _without(scene, index), one)
        rough, _ = window.fit(one, FAR, 4)
        best, error = window.fit(rough, 3, 1)
        scene = scene.with_object(index, best)
        total += error
    return scene, total


def _object(picture: np.ndarray, placed: Scene, index: int, expected: Sticker) -> dict[str, Check]:
    """The checks of one sticker of the shifted scene; `expected` is where it should be."""
    rest = _without(placed, index)
    window = Window.around(picture, rest, expected)
    here = list(dict.fromkeys((placed.objects[index], expected)))
    # The noun is judged in whatever colour suits it best, so that a wrong colour fails as a colour only.
    (one, own), (rival, error) = _best_looks(window, here)
    empty = max(float(window.errors([None])[0]), 1)
    explained = window.explained(one)
    checks = {
        "there": Check(explained >= EXPLAINED, f"explains {explained:.2f}", explained),
        "noun": Check(own <= error, f"{rival.color or ''} {rival.noun}".strip(), (error - own) / empty),
    }
    if V.nouns[one.noun].tintable and placed.filter not in COLORLESS:
        checks["color"] = _color(window, one, expected, placed.style)
    if one.noun == SIGN:
        places = [replace(one, cx=place.cx, cy=place.cy) for place in here]
        checks["text"] = _best_is(expected.text, word_fits(window, places), empty)
    large = Window.around(picture, rest, one, any_size=True)
    checks["size"] = _best_is(one.size, size_fits(large, one), empty)
    return checks


def _best_looks(window: Window, here: list[Sticker]) -> tuple[tuple[Sticker, float], tuple[Sticker, float]]:
    """The best of the expected noun's looks at one of the places, and the best of all other nouns', with errors."""
    # Filters take time, so under one a look has the expected colour or its own.
    colors = [None, *V.colors] if window.filter is None else [None, here[0].color]
    looks = [look for one in here for look in every_look(one, colors)]
    errors = window.errors(looks)
    order = [looks[i] for i in np.argsort(errors)]
    ours = [look for look in order if look.noun == here[0].noun][:OWN_FINALISTS]
    others = [look for look in order if look.noun != here[0].noun][:FINALISTS]
    first, second = ([window.fit(look, NEAR, 1) for look in some] for some in (ours, others))
    return min(first, key=itemgetter(1)), min(second, key=itemgetter(1))


def _color(window: Window, one: Sticker, expected: Sticker, style: str) -> Check:
    """Whether the expected colour, or one that reads the same, fits better than all others."""
    colors = [None, *V.colors]
    errors = window.errors([replace(one, color=color) for color in colors], coarse=True)
    alike = np.array([same_color(one.noun, style, color, expected.color) for color in colors])
    margin = float(errors[~alike].min() - errors[alike].min()) / max(float(errors.max()), 1)
    return Check(margin >= 0, colors[int(errors.argmin())] or "its own colors", margin)


def _best_is(expected: str, fits: dict[str, tuple[Sticker, float]], empty: float) -> Check:
    """Whether the expected alternative has the least error."""
    best = min(fits, key=lambda name: fits[name][1])
    rival = min(error for name, (_, error) in fits.items() if name != expected)
    return Check(best == expected, best, (rival - fits[expected][1]) / max(empty, 1))


def _nearest(expected: str | None, errors: dict, drawn: dict[str | None, np.ndarray]) -> Check:
    """Whether the expected one has the least error among those that look different from it."""
    rivals = [name for name, made in drawn.items() if np.abs(made - drawn[expected]).mean() > ALIKE]
    best = min(rivals, key=errors.get)
    margin = errors[best] / max(errors[expected], 1e-6) - 1
    return Check(margin >= 0, str(best), margin)


def _background(picture: np.ndarray, scene: Scene) -> Check:
    """Whether the expected background is the nearest where no object is expected."""
    free = np.ones(picture.shape[:2], bool)
    for one in scene.objects:
        x, y = one.corner
        free[max(y - NEAR, 0) : y + one.side + NEAR, max(x - NEAR, 0) : x + one.side + NEAR] = False
    return _nearest(scene.background, *background_errors(picture, scene.filter, free))


def _filter(picture: np.ndarray, scene: Scene) -> Check:
    """Whether the expected filter is the nearest of all, none included."""
    plain = draw(replace(scene, filter=None))
    seen = pooled(picture, 4)
    # In 4 x 4 means, the pixel filter and none are the same; they are told apart by their blocks.
    names = [name for name in V.filters if name != "pixel"]
    drawn = {None: pooled(plain, 4)} | {name: pooled(apply_filter(plain, name), 4) for name in names}
    errors = {name: float(np.square(made - seen).sum()) for name, made in drawn.items()}
    check = _nearest(None if scene.filter == "pixel" else scene.filter, errors, drawn)
    if not check.passed or scene.filter not in (None, "pixel"):
        return check
    blocks = blockiness(picture, plain)
    if scene.filter == "pixel":
        return Check(blocks > 0, "None", blocks)
    return Check(blocks < PIXELATED, "pixel", PIXELATED - blocks)


def blockiness(picture: np.ndarray, plain: np.ndarray) -> float:
    """How much nearer the picture is to the pixel filter's blocks than to the scene, each at the blur that suits."""
    errors = []
    for drawn in (apply_filter(plain, "pixel"), plain):
        sharp = drawn.astype(np.float32)
        blurred = [sharp, *(gaussian_filter(sharp, (sigma, sigma, 0)) for sigma in BLURS)]
        errors.append(min(float(np.square(one - picture).sum()) for one in blurred))
    return (errors[1] - errors[0]) / max(*errors, 1e-6)


def leftover_cells(picture: np.ndarray, scene: Scene) -> int:
    """In how many 8 x 8 cells outside the scene's stickers the picture differs clearly from the scene."""
    free = np.ones(picture.shape[:2], np.uint8)
    for one in scene.objects:
        x, y = one.corner
        free[max(y, 0) : y + one.side, max(x, 0) : x + one.side] = 0
    difference = np.abs(pooled(picture, CELL) - pooled(draw(scene), CELL)).mean(-1)
    open_cells = pooled(np.repeat(free[..., None], 3, -1), CELL)[..., 0] == 1
    return int((open_cells & (difference > LEFTOVER)).sum())
