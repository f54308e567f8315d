"""Analysis by synthesis: draw what might be there with the real renderer and measure how far the picture is from it.

Pictures are uint8 (256, 256, 3). Distances are sums of squared differences of 2 x 2 pixel means, so that the fine
detail which a tokenizer loses counts little.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from train.data.scenes import VOCABULARY, Scene, Sticker
from train.data.scenes.backgrounds import background
from train.data.scenes.draw import blend
from train.data.scenes.filters import apply_filter
from train.data.scenes.scene import reach

V = VOCABULARY
MARGIN = 16  # pixels round the sticker's box: room for shifts, larger sizes and the blur of a sketch
GRID = 4  # windows start at multiples of this: the blocks of the pixel filter


def shifted(one: Sticker, dx: int, dy: int) -> Sticker:
    """The sticker moved, kept on the canvas (not on its margin: a picture may be a few pixels off)."""
    low, high = one.side // 2, V.canvas - one.side // 2
    return replace(one, cx=min(max(one.cx + dx, low), high), cy=min(max(one.cy + dy, low), high))


def pooled(pictures: np.ndarray, factor: int) -> np.ndarray:
    """Means of factor x factor pixels: (..., h, w, c) -> float32 (..., h / factor, w / factor, c)."""
    *front, h, w, c = pictures.shape
    rows = pictures.reshape(*front, h // factor, factor, w * c).sum(-2, dtype=np.int32)
    cells = rows.reshape(*front, h // factor, w // factor, factor, c).sum(-2)
    return cells.astype(np.float32) / factor**2


@dataclass(frozen=True)
class Window:
    """The part of a picture round one expected sticker, and the scene there without it.

    `empty` is unfiltered; a hypothesis is blended onto it, filtered, and compared with `seen`.
    """

    left: int
    top: int
    seen: np.ndarray  # pooled picture
    empty: np.ndarray  # uint8, the other objects drawn
    style: str
    filter: str | None

    @classmethod
    def around(cls, picture: np.ndarray, scene: Scene, index: int, factor: int = 2) -> "Window":
        one = scene.objects[index]
        half = V.sizes["large"] // 2 + V.border + MARGIN

        def span(centre: int) -> tuple[int, int]:
            low, high = max(centre - half, 0), min(centre + half, V.canvas)
            return low - low % GRID, min(high + -high % GRID, V.canvas)

        (left, right), (top, bottom) = span(one.cx), span(one.cy)
        canvas = background(scene.background).copy()
        for i, other in enumerate(scene.objects):
            if i != index:
                blend(canvas, other, scene.style)
        cut = np.s_[top:bottom, left:right]
        return cls(
            left,
            top,
            pooled(picture[cut], factor),
            np.ascontiguousarray(canvas[cut]),
            scene.style,
            scene.filter,
        )

    @property
    def factor(self) -> int:
        return self.empty.shape[0] // self.seen.shape[0]

    def _render(self, one: Sticker | None, style: str) -> np.ndarray:
        canvas = self.empty.copy()
        if one is not None:
            blend(canvas, one, style, (self.left, self.top))
        return canvas if self.filter is None else apply_filter(canvas, self.filter)

    def errors(self, candidates: Sequence[Sticker | None], style: str | None = None) -> np.ndarray:
        """Squared distance of the picture from each candidate; None stands for no sticker at all."""
        found = np.empty(len(candidates))
        for i, one in enumerate(candidates):
            made = pooled(self._render(one, style or self.style), self.factor)
            found[i] = np.square(made - self.seen).sum()
        return found

    def best_shift(
        self, one: Sticker, reach_px: int, step: int, style: str | None = None
    ) -> tuple[Sticker, float]:
        """The sticker at the shift of at most `reach_px` pixels that fits best, and its error."""
        steps = range(-reach_px, reach_px + 1, step)
        places = [shifted(one, dx, dy) for dy in steps for dx in steps]
        errors = self.errors(places, style)
        return places[int(errors.argmin())], float(errors.min())


def inside(one: Sticker) -> bool:
    """Whether the sticker's box keeps the canvas margin."""
    low, high = reach(one.side)
    return low <= one.cx <= high and low <= one.cy <= high
