"""Analysis by synthesis: draw what might be there with the real renderer and measure how far the picture is from it.

Pictures are uint8 (256, 256, 3). Distances are sums of squared differences of 2 x 2 pixel means, so that the
finest detail, which a tokenizer loses first, counts little.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

import numpy as np
from einops import reduce

from train.data.scenes import VOCABULARY, Scene, Sticker, draw
from train.data.scenes.backgrounds import background
from train.data.scenes.draw import blend
from train.data.scenes.filters import apply_filter
from train.data.scenes.vocabulary import SIGN

V = VOCABULARY
FACTOR = 2
MARGIN = 14  # pixels round the box: room for shifts
SKETCH_MARGIN = 20  # its blur carries a sticker's edge further
NEAR = 2  # pixels by which alternatives may be shifted round the best place
CAP = 64  # grey levels: what a pixel may count against a background
GRID = 4  # windows start at multiples of this: the blocks of the pixel filter


def shifted(one: Sticker, dx: int, dy: int) -> Sticker:
    """The sticker moved, but kept whole on the canvas."""
    low, high = one.side // 2, V.canvas - one.side // 2
    return replace(one, cx=min(max(one.cx + dx, low), high), cy=min(max(one.cy + dy, low), high))


def pooled(picture: np.ndarray, factor: int) -> np.ndarray:
    """Means of factor x factor pixels (a power of two): uint8 (h, w, 3) -> float32 (h / factor, w / factor, 3)."""
    total = picture.astype(np.uint16)
    for _ in range(factor.bit_length() - 1):
        height, width, _ = total.shape
        rows = total.reshape(height // 2, 2, width * 3)
        pairs = (rows[:, 0] + rows[:, 1]).reshape(height // 2, width // 2, 2, 3)
        total = np.empty((height // 2, width // 2, 3), np.uint16)
        for channel in range(3):  # long runs instead of triples: numpy is three times as fast
            np.add(pairs[:, :, 0, channel], pairs[:, :, 1, channel], out=total[..., channel])
    return total.astype(np.float32) / factor**2


def background_errors(
    picture: np.ndarray, shade: str | None = None, free: np.ndarray | None = None
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """How far each background, under a filter, is from the picture; and the backgrounds in 4 x 4 means.

    `free` bool (256, 256) says where to look; without it the whole picture counts.
    """
    drawn = {}
    for name in V.backgrounds:
        made = background(name)
        drawn[name] = pooled(made if shade is None else apply_filter(made, shade), 4)
    seen, weight = pooled(picture, 4), np.float32(1)
    if free is not None:
        weight = reduce(free.astype(np.float32), "(h a) (w b) -> h w 1", "mean", a=4, b=4)
    # Capped, so that stickers do not decide.
    errors = {name: float((np.minimum(np.abs(made - seen), CAP) * weight).sum()) for name, made in drawn.items()}
    return errors, drawn


@dataclass(frozen=True)
class Window:
    """The part of a picture round one place, and what is there without the sticker in question.

    A hypothesis, a sticker in a style, is blended onto `empty`, filtered, and compared with `seen`.
    """

    left: int
    top: int
    seen: np.ndarray  # float32, the picture's 2 x 2 means
    empty: np.ndarray  # uint8, unfiltered, the other objects drawn
    style: str
    filter: str | None

    @classmethod
    def around(
        cls,
        picture: np.ndarray,
        scene: Scene,
        place: Sticker,
        *,
        canvas: np.ndarray | None = None,
        any_size: bool = False,
        margin: int = MARGIN,
    ) -> "Window":
        """The window round `place` for a picture that should show the scene and one sticker more.

        `canvas` is the scene drawn without its filter, when it is at hand. `any_size` makes room for every size.
        """
        if any_size:
            place = shifted(replace(place, size="large"), 0, 0)
        half = place.side // 2 + (SKETCH_MARGIN if scene.filter == "sketch" else margin)

        def span(centre: int) -> tuple[int, int]:
            low, high = max(centre - half, 0), min(centre + half, V.canvas)
            return low - low % GRID, high + -high % GRID

        (left, right), (top, bottom) = span(place.cx), span(place.cy)
        cut = np.s_[top:bottom, left:right]
        canvas = draw(replace(scene, filter=None)) if canvas is None else canvas
        empty = np.ascontiguousarray(canvas[cut])
        return cls(left, top, pooled(picture[cut], FACTOR), empty, scene.style, scene.filter)

    def _render(self, one: Sticker | None, style: str | None) -> np.ndarray:
        canvas = self.empty.copy()
        if one is not None:
            blend(canvas, one, style or self.style, (self.left, self.top))
        return canvas if self.filter is None else apply_filter(canvas, self.filter)

    def errors(
        self, candidates: Sequence[Sticker | None], style: str | None = None, coarse: bool = False
    ) -> np.ndarray:
        """Squared distance of the picture from each candidate; None stands for no sticker at all.

        The style is the scene's unless given. `coarse` compares 4 x 4 means: less detail, but blur does no harm.
        """
        found = np.empty(len(candidates))
        for i, one in enumerate(candidates):
            difference = pooled(self._render(one, style), FACTOR) - self.seen
            if coarse:
                difference = reduce(difference, "(h a) (w b) c -> h w c", "mean", a=2, b=2)
            difference = difference.ravel()
            found[i] = difference @ difference
        return found

    def fit(self, one: Sticker, most: int, step: int, style: str | None = None) -> tuple[Sticker, float]:
        """The sticker at the shift of at most `most` pixels that fits best, and its error."""
        steps = range(-most, most + 1, step)
        places = {shifted(one, dx, dy): None for dy in steps for dx in steps}
        places = [place for place in places if self._holds(place)]
        errors = self.errors(places, style)
        best = int(errors.argmin())
        return places[best], float(errors[best])

    def explained(self, one: Sticker, style: str | None = None) -> float:
        """The share of the coarse distance to the empty place that the sticker takes away; at most 1."""
        own, empty = self.errors([one, None], style, coarse=True)
        return float(1 - own / max(empty, 1e-6))

    def _holds(self, one: Sticker) -> bool:
        (x, y), (height, width) = one.corner, self.empty.shape[:2]
        right, bottom = x + one.side, y + one.side
        return self.left <= x and self.top <= y and right <= self.left + width and bottom <= self.top + height


def word_fits(window: Window, places: Sequence[Sticker], style: str | None = None) -> dict[str, tuple]:
    """(sticker, error) of each word on a sign that stands near one of the places; of all words that there are, also
    where only some are drawn."""
    return {
        word: min((window.fit(replace(one, text=word), NEAR, 1, style) for one in places), key=itemgetter(1))
        for word in V.raw["words"]
    }


def size_fits(window: Window, one: Sticker, style: str | None = None) -> dict[str, tuple]:
    """(sticker, error) of each size at this centre; the window must have room for any."""
    return {size: window.fit(shifted(replace(one, size=size), 0, 0), 2 * NEAR, 2, style) for size in V.sizes}


def every_look(one: Sticker, colors: Sequence[str | None] = (None, *V.colors)) -> list[Sticker]:
    """The sticker as every noun in every one of these colourings; a sign keeps its word or gets the first."""
    text = one.text or V.words[0]
    return [
        replace(one, noun=noun, color=color, text=text if noun == SIGN else None)
        for noun, entry in V.nouns.items()
        for color in (dict.fromkeys(colors) if entry.tintable else [None])
    ]
