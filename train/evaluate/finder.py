"""Find the stickers of an unfiltered picture, wherever they are.

First the background: the nearest of the sixteen. Then, in 8 x 8 pixel means, how much every look at every place would
explain of what the background does not (one matrix product a size); the best is fitted with the real renderer, drawn,
and the search goes on among the places that are left.
"""

from dataclasses import dataclass, replace
from functools import cache
from operator import itemgetter

import numpy as np
from einops import rearrange, reduce
from numpy.lib.stride_tricks import sliding_window_view

from train.data.scenes import VOCABULARY, Sticker, sprite
from train.data.scenes.backgrounds import background
from train.data.scenes.draw import blend
from train.data.scenes.scene import MOST_OBJECTS, Scene
from train.data.scenes.vocabulary import SIGN

from .hypotheses import (
    NEAR,
    Window,
    background_errors,
    every_look,
    pooled,
    shifted,
    size_fits,
    word_fits,
)
from .judge import require_picture

V = VOCABULARY
CELL = 8
TOP_LOOKS = 16  # of the coarse search, fitted at a place
EXPLAINED = 0.4  # share of the distance to the empty place that a sticker must take away
LEAST_GAIN = 0.6  # of the coarse search, in squared units of [0, 1] colour
MOST_TRIES = 2 * MOST_OBJECTS + 2
OVERLAP = 0.35  # of the smaller box: nearer to a found sticker there is no other


@dataclass(frozen=True)
class Found:
    """One sticker that was found; `explained` is how much of what is there it explains, at most 1."""

    sticker: Sticker
    style: str
    explained: float


@dataclass(frozen=True)
class Sight:
    background: str
    objects: tuple[Found, ...]

    def count(self, noun: str) -> int:
        return sum(one.sticker.noun == noun for one in self.objects)

    @property
    def style(self) -> str | None:
        """The style of most stickers; None without any or at a tie."""
        votes = [sum(one.style == style for one in self.objects) for style in V.styles]
        return V.styles[int(np.argmax(votes))] if votes.count(max(votes)) == 1 else None


@dataclass(frozen=True)
class Bank:
    """All looks of one size in 8 x 8 means, laid out so that a matrix product gives their gains.

    Drawing premultiplied colour p with alpha a over a background b turns the distance |q|^2 (q = picture - b) into
    |p - a b - q|^2. The gain, their difference, is linear in (p, a, p a, a^2) and in (2 q, -2 b q, 2 b, -b^2), less
    the constant |p|^2.
    """

    looks: tuple[tuple[Sticker, str], ...]
    cells: int  # side of the box in cells
    features: np.ndarray  # float32 (looks, cells * cells * 8)
    constants: np.ndarray  # float32 (looks,)


@cache
def bank(size: str) -> Bank:
    template = Sticker(SIGN, None, size, V.canvas // 2, V.canvas // 2)
    looks = tuple((look, style) for style in V.styles for look in every_look(template))
    cells = -(-template.side // CELL)
    pad = (cells * CELL - template.side) // 2
    planes = np.empty((len(looks), cells * cells, 4), np.float32)
    for index, (look, style) in enumerate(looks):
        art = sprite(look, style).astype(np.float32) / 255
        art[..., :3] *= art[..., 3:]
        art = np.pad(art, [(pad, pad), (pad, pad), (0, 0)])
        planes[index] = reduce(art, "(h a) (w b) c -> (h w) c", "mean", a=CELL, b=CELL)
    p, a = planes[..., :3], planes[..., 3:]
    features = np.concatenate([p, a, p * a, a * a], axis=-1)
    return Bank(looks, cells, rearrange(features, "n k c -> n (k c)"), np.square(p).sum((1, 2)))


def _gains(picture: np.ndarray, empty: np.ndarray, size: str) -> np.ndarray:
    """The gain of each look at each place: float32 (looks, rows, columns) of box corners in cells."""
    kept = bank(size)
    b = pooled(empty, CELL) / 255
    q = pooled(picture, CELL) / 255 - b
    bq, bb = (b * q).sum(-1, keepdims=True), (b * b).sum(-1, keepdims=True)
    planes = np.concatenate([2 * q, -2 * bq, 2 * b, -bb], axis=-1)
    boxes = sliding_window_view(planes, (kept.cells, kept.cells), axis=(0, 1))
    rows = boxes.shape[0]
    gains = kept.features @ rearrange(boxes, "y x c i j -> (i j c) (y x)") - kept.constants[:, None]
    return rearrange(gains, "n (y x) -> n y x", y=rows)


def find(picture: np.ndarray) -> Sight:
    """What a uint8 (256, 256, 3) picture shows."""
    require_picture(picture)
    errors, _ = background_errors(picture)
    name = min(errors, key=errors.get)
    gains = {size: _gains(picture, background(name), size) for size in V.sizes}
    best = {size: values.max(0) for size, values in gains.items()}
    found: list[Found] = []
    for _ in range(MOST_TRIES):
        size = max(best, key=lambda size: best[size].max())
        row, column = np.unravel_index(best[size].argmax(), best[size].shape)
        if best[size][row, column] < LEAST_GAIN:
            break
        kept = bank(size)
        cx, cy = (int(corner) * CELL + kept.cells * CELL // 2 for corner in (column, row))
        order = np.argsort(-gains[size][:, row, column])[:TOP_LOOKS]
        starts = [(shifted(replace(kept.looks[i][0], cx=cx, cy=cy), 0, 0), kept.looks[i][1]) for i in order]
        one = _fitted(picture, name, starts, found)
        if one.explained >= EXPLAINED:
            found.append(one)
            _cover(best, one.sticker.cx, one.sticker.cy, one.sticker.side)
        else:
            _cover(best, cx, cy, CELL)
    return Sight(name, tuple(found))


def _cover(best: dict[str, np.ndarray], cx: int, cy: int, side: int) -> None:
    """Strike out the places whose box would lie for a good part on this one."""
    for size, values in best.items():
        own = V.sizes[size] + 2 * V.border
        near = (own + side) / 2 - OVERLAP * min(own, side)
        centres = np.arange(values.shape[0]) * CELL + bank(size).cells * CELL // 2
        values[(np.abs(centres - cy) < near)[:, None] & (np.abs(centres - cx) < near)] = -np.inf


def _fitted(picture: np.ndarray, name: str, starts: list[tuple[Sticker, str]], found: list[Found]) -> Found:
    """The look, size and place that fit best near the starts, over what was found before."""
    canvas = background(name).copy()
    for other in found:
        blend(canvas, other.sticker, other.style)
    scene = Scene(name, V.styles[0])
    window = Window.around(picture, scene, starts[0][0], canvas=canvas)

    def best(fits: list) -> tuple[Sticker, str]:
        (one, _), style = min(fits, key=lambda fit: fit[0][1])
        return one, style

    one, style = best([(window.fit(one, CELL, 4, style), style) for one, style in starts])
    one, _ = window.fit(one, 3, 1, style)
    large = Window.around(picture, scene, one, canvas=canvas, any_size=True)
    one, _ = min(size_fits(large, one, style).values(), key=itemgetter(1))
    window = Window.around(picture, scene, one, canvas=canvas)
    looks = [(look, style) for style in V.styles for look in every_look(one)]
    errors = np.concatenate(
        [window.errors([look for look, own in looks if own == style], style) for style in V.styles]
    )
    finalists = [looks[i] for i in np.argsort(errors)[:TOP_LOOKS]]
    one, style = best([(window.fit(look, NEAR, 1, style), style) for look, style in finalists])
    if one.noun == SIGN:
        one, _ = min(word_fits(window, [one], style).values(), key=itemgetter(1))
    return Found(one, style, window.explained(one, style))
