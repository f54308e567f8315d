"""Draw a scene: background, stickers in list order, then at most one filter. Same scene, same picture."""

import numpy as np

from .backgrounds import background
from .filters import apply_filter
from .scene import Scene, Sticker
from .sprites import sprite, window


def blend(picture: np.ndarray, one: Sticker, style: str, origin: tuple[int, int] = (0, 0)) -> None:
    """Put a sticker on a contiguous uint8 (H, W, 3) picture, in place; `origin` is the picture's top left (x, y).

    out = round((A * colour + (255 - A) * below) / 255): with t = sum + 128, (t + (t >> 8)) >> 8 is exactly
    that division, and every step fits 16 bits.
    """
    top, left, premultiplied, rest = window(one.noun, style, one.color, one.size, one.text)
    x, y = one.corner
    x, y = x + left - origin[0], y + top - origin[1]
    height, width = premultiplied.shape
    rows = picture.reshape(picture.shape[0], -1)
    below = rows[y : y + height, 3 * x : 3 * x + width]
    total = np.multiply(below, rest, dtype=np.uint16)
    total += premultiplied
    total += total >> 8
    total >>= 8
    below[...] = total


def draw(scene: Scene) -> np.ndarray:
    """The picture of a legal scene: uint8 (256, 256, 3), a fresh array."""
    picture = background(scene.background).copy()
    for one in scene.objects:
        blend(picture, one, scene.style)
    return picture if scene.filter is None else apply_filter(picture, scene.filter)


def label_map(scene: Scene) -> np.ndarray:
    """Which object is drawn where: int64 (256, 256), an index into `scene.objects`, or -1 for the background.

    A pixel belongs to an object where its sticker, white border included, is at least half opaque.
    """
    labels = np.full(background(scene.background).shape[:2], -1)
    for index, one in enumerate(scene.objects):
        x, y = one.corner
        solid = sprite(one, scene.style)[..., 3] >= 128
        labels[y : y + one.side, x : x + one.side][solid] = index
    return labels
