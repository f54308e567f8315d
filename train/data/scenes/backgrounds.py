"""Backgrounds: a few painted shapes on a canvas of 4 x 4 samples a pixel. They have no random part."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
from einops import reduce

from .vocabulary import VOCABULARY

SAMPLES = 4  # per pixel and axis


def _axis(canvas: int) -> np.ndarray:
    """Sample positions along one axis: the middle of each quarter of a pixel."""
    return (np.arange(canvas * SAMPLES) + 0.5) / SAMPLES


def _fill(op: Mapping[str, Any], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.ones((y.size, x.size), bool)


def _rows(op: Mapping[str, Any], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.broadcast_to((op["y0"] <= y) & (y < op["y1"]), (y.size, x.size))


def _rect(op: Mapping[str, Any], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _rows(op, x, y) & (op["x0"] <= x) & (x < op["x1"])


def _ellipse(op: Mapping[str, Any], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return ((x - op["cx"]) / op["rx"]) ** 2 + ((y - op["cy"]) / op["ry"]) ** 2 <= 1


def _wave(op: Mapping[str, Any], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return y >= op["base"] + op["amp"] * np.sin(2 * np.pi * (x + op["phase"]) / op["period"])


COVERS: dict[str, Callable] = {
    "fill": _fill,
    "vgrad": _rows,
    "rect": _rect,
    "ellipse": _ellipse,
    "wave": _wave,
}


@cache
def background(name: str) -> np.ndarray:
    """The background of that name: read-only uint8 (256, 256, 3)."""
    if name not in VOCABULARY.backgrounds:
        raise ValueError(f"unknown background {name!r}; known are {', '.join(VOCABULARY.backgrounds)}")
    axis = _axis(VOCABULARY.canvas)
    x, y = axis[None, :], axis[:, None]
    canvas = np.zeros((axis.size, axis.size, 3))
    for op in VOCABULARY.backgrounds[name].ops:
        covered = COVERS[op["op"]](op, x, y)
        if op["op"] == "vgrad":
            t = (y - op["y0"]) / (op["y1"] - op["y0"])
            paint = (1 - t) * np.array(op["c0"]) + t * np.array(op["c1"])  # one colour a row of samples
            canvas = np.where(covered[..., None], paint[:, None, :], canvas)
        else:
            canvas[covered] = op["color"]
    picture = reduce(canvas, "(h q) (w r) c -> h w c", "mean", q=SAMPLES, r=SAMPLES)
    picture = np.rint(picture).astype(np.uint8)
    picture.flags.writeable = False
    return picture
