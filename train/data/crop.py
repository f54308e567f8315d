"""Squares out of pictures: the authors' crops, the same for source and target of an edit."""

import re

import numpy as np
from PIL import Image

from .rows import Fault
from .settings import DataSettings

BICUBIC = Image.Resampling.BICUBIC
# Shapes of source and target may differ by as much, as a resized result does by rounding.
SAME_SHAPE = 0.02
SIDES = re.compile(r"\b(left(most)?|right(most)?|(counter)?clockwise|mirror(ed)?|flip(ped)?)\b", re.IGNORECASE)


def adm_center_crop(picture: Image.Image, size: int) -> Image.Image:
    """The square in the middle as ADM takes it: halved by boxes while it stays large enough, then bicubic."""
    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = size / min(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), BICUBIC)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return picture.crop((left, top, left + size, top + size))


def shorter_side_to(picture: Image.Image, side: int) -> Image.Image:
    """Resized in proportion, the longer side rounded down (as torchvision does)."""
    shorter = min(picture.size)
    size = tuple(side if length == shorter else int(side * length / shorter) for length in picture.size)
    return picture.resize(size, BICUBIC)


def checked_size(size: int, data: DataSettings) -> int:
    """`size`; ValueError when squares of it cannot be cut out of pictures as the settings resize them."""
    if data.crop == "random" and data.resize is not None and data.resize < size:
        raise ValueError(f"data.resize={data.resize} is smaller than the {size} pixels that are cut out")
    return size


def squares(
    pictures: list[Image.Image], size: int, data: DataSettings, rng: np.random.Generator, text: str = ""
) -> np.ndarray:
    """The same part of one picture or of source and target: uint8 (n, 3, size, size).

    A `Fault` when a picture is smaller than the settings want, or source and target have different shapes.
    """
    first = pictures[0]
    for other in pictures:
        if min(other.size) < data.least_side:
            raise Fault("too small", f"{other.width}x{other.height} pixels, wanted are {data.least_side}")
        ratio = other.width * first.height / (other.height * first.width)
        if abs(ratio - 1) > SAME_SHAPE:
            raise Fault("different shapes", f"source {first.width}x{first.height}, target {other.width}x{other.height}")
    pictures = [picture if picture.size == first.size else picture.resize(first.size, BICUBIC) for picture in pictures]
    if data.crop == "center":
        pictures = [adm_center_crop(picture, size) for picture in pictures]
    else:
        pictures = [shorter_side_to(picture, data.resize or size * 3 // 2) for picture in pictures]
        left, top = (int(rng.integers(side - size + 1)) for side in pictures[0].size)
        pictures = [picture.crop((left, top, left + size, top + size)) for picture in pictures]
    if data.flip and not SIDES.search(text) and rng.random() < 0.5:
        pictures = [picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for picture in pictures]
    return np.stack([np.asarray(picture).transpose(2, 0, 1) for picture in pictures])
