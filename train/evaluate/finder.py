"""Find the stickers of an unfiltered picture, wherever they are.

First the background: the nearest of the sixteen. Then the look and place that would explain most of what the
background does not; it is fitted with the real renderer, drawn, and the search goes on in the places that are left.
"""

from dataclasses import dataclass, replace
from functools import cache
from operator import itemgetter

import numpy as np

from train.data.scenes import VOCABULARY, Scene, Sticker
from train.data.scenes.backgrounds import background
from train.data.scenes.draw import blend
from train.data.scenes.scene import MOST_OBJECTS
from train.data.scenes.vocabulary import SIGN

from .bank import CELL, Gains, bank
from .hypotheses import NEAR, Window, background_errors, shifted, word_fits
from .judge import require_picture

V = VOCABULARY
FINALISTS = 24  # looks of the coarse search that are drawn
EXPLAINED = (0.75, 0.5)  # first, then: share of the distance to the empty place that it must take away
WORTH_A_LOOK, LEAST_GAIN = 0.05, 0.15  # of the coarse search: on its grid; at the best place near by
MOST_TRIES = 3 * MOST_OBJECTS
STRIDE = 4
OVERLAP = 0.35  # of the smaller box: nearer to a found sticker there is no other


@dataclass(frozen=True)
class Found:
    """One sticker that was found."""

    sticker: Sticker
    style: str
    explained: float  # how much of what is there, at most 1
    clear: float  # how much nearer this style is than the other, in squared grey levels


@dataclass(frozen=True)
class Sight:
    background: str
    objects: tuple[Found, ...]

    @property
    def style(self) -> str | None:
        """The style of the stickers, the clear ones counting more; None without any."""
        votes = {style: sum(one.clear for one in self.objects if one.style == style) for style in V.styles}
        return max(votes, key=votes.get) if self.objects else None


def _half(size: str) -> int:
    return V.sizes[size] // 2 + V.border


def _grid(size: str, cx: int, cy: int, most: int, step: int) -> np.ndarray:
    """Centres int (n, 2) round a place, with the whole box on the canvas."""
    steps = np.arange(-most, most + 1, step)
    low, high = _half(size), V.canvas - _half(size)
    xs, ys = np.unique(np.clip(cx + steps, low, high)), np.unique(np.clip(cy + steps, low, high))
    return np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)


@cache
def _everywhere(size: str) -> np.ndarray:
    return _grid(size, V.canvas // 2, V.canvas // 2, V.canvas // 2 - _half(size), STRIDE)


def find(picture: np.ndarray) -> Sight:
    """What a uint8 (256, 256, 3) picture shows."""
    require_picture(picture)
    errors, _ = background_errors(picture)
    scene = Scene(min(errors, key=errors.get), V.styles[0])
    canvas = background(scene.background).copy()
    coarse = Gains(picture, canvas)
    best = {size: _best_gains(coarse, size) for size in V.sizes}
    found: list[Found] = []
    # What explains its place well comes first, so that one large guess does not swallow two small truths.
    for least in EXPLAINED:
        found += _search(picture, scene, canvas, best, least)
        for one in found:
            _cover(best, one.sticker.cx, one.sticker.cy, one.sticker.side)
    return Sight(scene.background, tuple(found))


def _search(
    picture: np.ndarray, scene: Scene, canvas: np.ndarray, best: dict[str, np.ndarray], least: float
) -> list[Found]:
    """The stickers that explain at least so much of their place; each is drawn on the canvas."""
    best = {size: values.copy() for size, values in best.items()}
    found: list[Found] = []
    for _ in range(MOST_TRIES):
        size = max(best, key=lambda size: best[size].max())
        place = int(best[size].argmax())
        if best[size][place] < WORTH_A_LOOK:
            break
        cx, cy = _everywhere(size)[place].tolist()
        one = _fitted(picture, scene, canvas, cx, cy)
        if one is None or one.explained < least:
            _cover(best, cx, cy, 0)
            continue
        found.append(one)
        blend(canvas, one.sticker, one.style)
        _cover(best, one.sticker.cx, one.sticker.cy, one.sticker.side)
    return found


def _best_gains(gains: Gains, size: str) -> np.ndarray:
    """The largest gain of any look at each place of the grid; -inf where none could be worth a look."""
    centres = _everywhere(size)
    best = np.full(len(centres), -np.inf, np.float32)
    open_places = gains.most(size, centres) > WORTH_A_LOOK
    best[open_places] = gains.at(size, centres[open_places]).max(0)
    return best


def _cover(best: dict[str, np.ndarray], cx: int, cy: int, side: int) -> None:
    """Strike out the places whose box would lie for a good part on this one; with side 0 the nearest places."""
    for size, values in best.items():
        own = 2 * _half(size)
        near = (own + side) / 2 - OVERLAP * min(own, side) if side else CELL
        values[np.abs(_everywhere(size) - (cx, cy)).max(1) < near] = -np.inf


def _finalists(gains: Gains, cx: int, cy: int) -> list[tuple[Sticker, str]]:
    """The looks with the largest gains near a place, each at its best place there, of whatever size."""
    ranked = []
    for size in V.sizes:
        centres = _grid(size, cx, cy, CELL, 2)
        values = gains.at(size, centres)
        where = values.argmax(1)
        value = values.max(1)
        for index in np.argsort(-value)[:FINALISTS]:
            look, style = bank(size).looks[index]
            x, y = centres[where[index]].tolist()
            ranked.append((float(value[index]), replace(look, cx=x, cy=y), style))
    ranked.sort(key=itemgetter(0), reverse=True)
    return [(look, style) for gain, look, style in ranked[:FINALISTS] if gain > LEAST_GAIN]


def _fitted(picture: np.ndarray, scene: Scene, canvas: np.ndarray, cx: int, cy: int) -> Found | None:
    """The sticker that fits best near a place, over what was found before; None when nothing is there."""
    finalists = _finalists(Gains(picture, canvas), cx, cy)
    if not finalists:
        return None
    place = replace(finalists[0][0], size="large", cx=cx, cy=cy)
    window = Window.around(picture, scene, shifted(place, 0, 0), canvas=canvas)
    fits = [(*window.fit(look, NEAR, 2, style), style) for look, style in finalists]
    signs = [fit for fit in fits if fit[0].noun == SIGN]
    if signs:  # the coarse search knew three words only
        sign, _, style = min(signs, key=itemgetter(1))
        near = Window.around(picture, scene, sign, canvas=canvas)
        word, _ = min(word_fits(near, [sign], style).values(), key=itemgetter(1))
        fits.append((word, float(window.errors([word], style)[0]), style))
    one, _, style = min(fits, key=itemgetter(1))
    one, _ = window.fit(one, NEAR, 1, style)
    if V.nouns[one.noun].tintable:
        # Blur bleeds thin coloured parts, so the last word on the colour is had at low resolution.
        colorings = [replace(one, color=color) for color in (None, *V.colors)]
        one = colorings[int(window.errors(colorings, style, coarse=True).argmin())]
    box = Window.around(picture, scene, one, canvas=canvas, margin=0)
    other = next(name for name in V.styles if name != style)
    clear = float(box.errors([one], other)[0] - box.errors([one], style)[0])
    return Found(one, style, box.explained(one, style), clear)
