"""All looks in 8 x 8 pixel means, and how much each would explain of a picture at any place, by matrix products.

Drawing premultiplied colour p with alpha a over a background b turns the squared distance |q|^2 of the picture from
the background (q = picture - b) into |p - a b - q|^2. The gain, their difference, is linear in the look's
(p, a, p a, a^2) and in the place's (2 q, -2 b q, 2 b, -b^2), less the constant |p|^2.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from einops import rearrange, reduce
from scipy.ndimage import uniform_filter

from train.data.scenes import VOCABULARY, Sticker, sprite
from train.data.scenes.vocabulary import SIGN

from .hypotheses import every_look

V = VOCABULARY
CELL = 8
SIGN_WORDS = ("HI", "YES", "OPEN")  # one of each length stands for all
PAD = 8  # boxes are whole cells, so they may stand out of the canvas by some pixels


@dataclass(frozen=True)
class Bank:
    """The looks of one size."""

    looks: tuple[tuple[Sticker, str], ...]  # sticker and style; the stickers' places mean nothing
    cells: int  # side of the box in cells
    features: np.ndarray  # float32 (looks, cells * cells * 8)
    constants: np.ndarray  # float32 (looks,)


@cache
def bank(size: str) -> Bank:
    signs = [Sticker(SIGN, None, size, V.canvas // 2, V.canvas // 2, word) for word in SIGN_WORDS]
    stickers = dict.fromkeys(look for sign in signs for look in every_look(sign))
    looks = tuple((look, style) for style in V.styles for look in stickers)
    side = signs[0].side
    cells = -(-side // CELL)
    pad = (cells * CELL - side) // 2
    planes = np.empty((len(looks), cells * cells, 4), np.float32)
    for index, (look, style) in enumerate(looks):
        art = np.pad(sprite(look, style), [(pad, pad), (pad, pad), (0, 0)]).astype(np.float32) / 255
        art[..., :3] *= art[..., 3:]
        # Rows first: long contiguous sums are several times as fast as both at once.
        rows = reduce(art, "(h a) w c -> h w c", "mean", a=CELL)
        planes[index] = reduce(rows, "h (w b) c -> (h w) c", "mean", b=CELL)
    p, a = planes[..., :3], planes[..., 3:]
    features = rearrange(np.concatenate([p, a, p * a, a * a], axis=-1), "n k c -> n (k c)")
    return Bank(looks, cells, features, np.square(p).sum((1, 2)))


class Gains:
    """The gains of all looks over one background picture; both pictures are uint8 (256, 256, 3)."""

    def __init__(self, picture: np.ndarray, empty: np.ndarray):
        b, seen = _box_means(empty), _box_means(picture)
        q = seen - b
        bq, bb = (b * q).sum(-1, keepdims=True), (b * b).sum(-1, keepdims=True)
        self.energy = np.square(q).sum(-1)
        self.planes = np.concatenate([2 * q, -2 * bq, 2 * b, -bb], axis=-1)

    def at(self, size: str, centres: np.ndarray) -> np.ndarray:
        """Gains in squared units of [0, 1] colour a cell: centres int (n, 2) as (x, y) -> float32 (looks, n)."""
        kept = bank(size)
        boxes = rearrange(self.planes[_cells(size, centres)], "n i j c -> (i j c) n")
        return kept.features @ boxes - kept.constants[:, None]

    def most(self, size: str, centres: np.ndarray) -> np.ndarray:
        """What no gain can exceed, float32 (n,): all that the background leaves unexplained in the box."""
        return self.energy[_cells(size, centres)].sum((1, 2))


def _cells(size: str, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, cells, 1) and columns (n, 1, cells) of the box means round each centre."""
    cells = bank(size).cells
    corners = centres - cells * CELL // 2 + PAD
    steps = np.arange(cells) * CELL
    return (corners[:, 1, None] + steps)[:, :, None], (corners[:, 0, None] + steps)[:, None, :]


def _box_means(picture: np.ndarray) -> np.ndarray:
    """The mean of the 8 x 8 pixels from each pixel on: float32 (264, 264, 3) in [0, 1], padded by 8 on all sides."""
    padded = np.pad(picture, [(PAD, PAD + CELL), (PAD, PAD + CELL), (0, 0)], mode="edge").astype(np.float32)
    means = uniform_filter(padded / 255, (CELL, CELL, 0), origin=(-CELL // 2, -CELL // 2, 0))
    return means[:-CELL, :-CELL]
