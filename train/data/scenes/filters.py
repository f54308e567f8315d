"""Filters over a whole picture: uint8 (H, W, 3) in and out. In float, then clipped and rounded."""

import numpy as np
from einops import reduce, repeat
from scipy.ndimage import gaussian_filter1d

LUMA = (0.299, 0.587, 0.114)
# Each row gives one output channel from R, G, B.
MATRICES = {
    "bw": (LUMA, LUMA, LUMA),
    "sepia": ((0.393, 0.769, 0.189), (0.349, 0.686, 0.168), (0.272, 0.534, 0.131)),
}
# Per channel: factor and offset.
CURVES = {
    "negative": ((-1, 255), (-1, 255), (-1, 255)),
    "warm": ((1.10, 14), (1, 2), (0.70, 0)),
    "cool": ((0.70, 0), (0.97, 0), (1.06, 22)),
    "night": ((0.28, 6), (0.34, 12), (0.52, 40)),
    "faded": ((0.45, 0.55 * 222),) * 3,
}
PIXEL = 4
SKETCH_SIGMA = 4


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


TABLES = {
    name: np.stack([_rounded(factor * np.arange(256) + offset) for factor, offset in curve])
    for name, curve in CURVES.items()
}


def _matrix(picture: np.ndarray, name: str) -> np.ndarray:
    rows = MATRICES[name]
    values = picture.astype(np.float32) @ np.array(rows, np.float32).T
    return _rounded(values)


def _curve(picture: np.ndarray, name: str) -> np.ndarray:
    return np.stack([table[picture[..., c]] for c, table in enumerate(TABLES[name])], axis=-1)


def _pixel(picture: np.ndarray) -> np.ndarray:
    rows = reduce(picture.astype(np.float32), "(h a) w c -> h w c", "mean", a=PIXEL)
    blocks = reduce(rows, "h (w b) c -> h w c", "mean", b=PIXEL)
    return repeat(_rounded(blocks), "h w c -> (h a) (w b) c", a=PIXEL, b=PIXEL)


def _sketch(picture: np.ndarray) -> np.ndarray:
    luma = picture.astype(np.float32) @ np.array(LUMA, np.float32)
    blurred = 255 - luma
    for axis in (0, 1):
        blurred = gaussian_filter1d(blurred, SKETCH_SIGMA, axis=axis, mode="reflect", truncate=4)
    line = _rounded(luma * 255 / np.maximum(256 - blurred, 1))
    return repeat(line, "h w -> h w c", c=3)


def apply_filter(picture: np.ndarray, name: str) -> np.ndarray:
    """Apply the filter of that name. Raises ValueError for a name that is not one."""
    if name in MATRICES:
        return _matrix(picture, name)
    if name in CURVES:
        return _curve(picture, name)
    if name == "pixel":
        return _pixel(picture)
    if name == "sketch":
        return _sketch(picture)
    raise ValueError(
        f"unknown filter {name!r}; known are {', '.join([*MATRICES, *CURVES, 'pixel', 'sketch'])}"
    )
