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
SIGNS = 4  # of these, signs that are tried with every word
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


def sight_of(scene: Scene) -> Sight:
    """What a perfect observer would see of an unfiltered scene."""
    return Sight(scene.background, tuple(Found(one, scene.style, 1.0, 1.0) for one in scene.objects))


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
    search = _Search(picture, min(errors, key=errors.get))
    # What explains its place well comes first, so that one large guess does not swallow two small truths.
    for least in EXPLAINED:
        search.run(least)
    return Sight(search.scene.background, tuple(search.found))


class _Search:
    """Stickers found so far on a background, and how much there is left to gain at each place of the grid."""

    def __init__(self, picture: np.ndarray, name: str):
        self.picture = picture
        self.scene = Scene(name, V.styles[0])
        self.canvas = background(name).copy()  # with what was found
        self.found: list[Found] = []
        self.best = {size: np.full(len(_everywhere(size)), -np.inf, np.float32) for size in V.sizes}
        self._measure({size: np.ones(len(values), bool) for size, values in self.best.items()})

    def _measure(self, where: dict[str, np.ndarray]) -> None:
        """The largest gain of any look at these places; -inf where none could be worth a look."""
        self.gains = Gains(self.picture, self.canvas)
        for size, values in self.best.items():
            centres = _everywhere(size)
            values[where[size]] = -np.inf
            places = where[size] & (self.gains.most(size, centres) > WORTH_A_LOOK)
            if places.any():
                values[places] = self.gains.at(size, centres[places]).max(0)

    def run(self, least: float) -> None:
        """Find the stickers that explain at least this share of their place."""
        tried = {size: np.zeros(len(values), bool) for size, values in self.best.items()}
        for _ in range(MOST_TRIES):
            left = {size: np.where(tried[size], -np.inf, values) for size, values in self.best.items()}
            size = max(left, key=lambda size: left[size].max())
            place = int(left[size].argmax())
            if left[size][place] < WORTH_A_LOOK:
                return
            cx, cy = _everywhere(size)[place].tolist()
            one = _fitted(self.picture, self.scene, self.canvas, self.gains, cx, cy)
            if one is None or one.explained < least:
                for name, struck in tried.items():
                    struck |= _near(name, cx, cy, CELL)
            else:
                self._accept(one)

    def _accept(self, one: Found) -> None:
        self.found.append(one)
        blend(self.canvas, one.sticker, one.style)
        self._measure({size: self._by(one.sticker, size, -CELL) for size in V.sizes})
        for size, values in self.best.items():
            for old in self.found:
                overlap = OVERLAP * min(2 * _half(size), old.sticker.side)
                values[self._by(old.sticker, size, overlap)] = -np.inf

    @staticmethod
    def _by(one: Sticker, size: str, overlap: float) -> np.ndarray:
        """Which places would have a box of that size overlap the sticker's by more than so many pixels."""
        return _near(size, one.cx, one.cy, _half(size) + one.side / 2 - overlap)


def _near(size: str, cx: int, cy: int, distance: float) -> np.ndarray:
    """Which places of the grid lie nearer than that along both axes."""
    return np.abs(_everywhere(size) - (cx, cy)).max(1) < distance


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


def _fitted(picture: np.ndarray, scene: Scene, canvas: np.ndarray, gains: Gains, cx: int, cy: int) -> Found | None:
    """The sticker that fits best near a place, over what was found before; None when nothing is there."""
    finalists = _finalists(gains, cx, cy)
    if not finalists:
        return None
    place = replace(finalists[0][0], size="large", cx=cx, cy=cy)
    window = Window.around(picture, scene, shifted(place, 0, 0), canvas=canvas)
    fits = [(*window.fit(look, NEAR, 2, style), style) for look, style in finalists]
    # The coarse search knew three words only, so a sign's colour and place are open until its word is known.
    for sign, _, look in sorted((fit for fit in fits if fit[0].noun == SIGN), key=itemgetter(1))[:SIGNS]:
        fits += [(*fit, look) for fit in word_fits(window, [sign], look).values()]
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
