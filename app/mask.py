"""Where an edit may change a picture: painted, a rectangle in percent, or a mask file; "L", white where it may."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np
from PIL import Image

from app.library import import_library
from app.request import finite
from app.texts import say

EDITOR_SIDE = 768  # a browser needs 20 s to read what is painted on a 12-megapixel picture, and under 1 s for this
SAME_SHAPE = 0.02  # how far the proportions of a mask may be from the picture's


def shrunk(picture: Image.Image, side: int = EDITOR_SIDE) -> Image.Image:
    """A copy to paint on, at most `side` pixels on the longer side."""
    small = picture.copy()
    small.thumbnail((side, side), Image.Resampling.BOX, reducing_gap=2.0)
    return small


def from_layers(layers: Iterable[str | BinaryIO], size: tuple[int, int]) -> Image.Image | None:
    """What was painted on any of the layers (files with alpha), at the picture's size; None when nothing was."""
    painted: np.ndarray | None = None
    for layer in layers:
        try:
            with Image.open(layer, formats=["PNG", "WEBP"]) as file:
                if max(file.size) > 2 * EDITOR_SIDE:
                    raise ValueError(say("error.mask_broken"))
                alpha = np.asarray(file.convert("RGBA").getchannel("A")) > 0
        except (OSError, SyntaxError, Image.DecompressionBombError) as fault:
            raise ValueError(say("error.mask_broken")) from fault
        if painted is None:
            painted = alpha
        elif painted.shape == alpha.shape:
            painted = painted | alpha
    if painted is None or not painted.any():
        return None
    return _scaled(Image.fromarray(painted.astype(np.uint8) * 255), size)


def from_rectangle(numbers: Iterable[float | None], size: tuple[int, int]) -> Image.Image:
    """left, top, width and height in percent of the picture. ValueError for a rectangle that is not on it."""
    values = [
        finite(f"area.{name}", value, 0, 100)
        for name, value in zip(("left", "top", "width", "height"), numbers, strict=True)
    ]
    left, top, width, height = (value / 100 for value in values)
    edges = (left, top, min(left + width, 1), min(top + height, 1))
    box = [round(edge * size[i % 2]) for i, edge in enumerate(edges)]
    if box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError(say("error.rectangle"))
    mask = Image.new("L", size, 0)
    mask.paste(255, tuple(box))
    return mask


def from_file(path: str | None, size: tuple[int, int]) -> Image.Image:
    """An uploaded mask, white (or paint on nothing) where the edit may change; scaled to the picture."""
    if not path:
        raise ValueError(say("error.no_mask"))
    if not os.path.isfile(path):
        raise ValueError(say("error.upload_gone"))
    import_library()
    from rpiae import images

    own = images.describe(path).size
    if abs(own[0] * size[1] / (own[1] * size[0]) - 1) > SAME_SHAPE:
        mask, picture = (f"{width} × {height}" for width, height in (own, size))
        raise ValueError(say("error.mask_shape", mask=mask, picture=picture))
    return _scaled(images.load_mask(path, own), size)


def _scaled(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The mask at the picture's size, its edges smooth rather than stairs, and still nothing but 0 and 255."""
    if mask.size == size:
        return mask
    return mask.resize(size, Image.Resampling.BILINEAR).point(lambda value: 255 if value >= 128 else 0)
