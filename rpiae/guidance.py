"""Guidance with two scales, for text and for the source picture (InstructPix2Pix, section 3.2).

    editing:        v = v00 + s_image (v0i - v00) + s_text (vci - v0i)
    text to image:  v = v00 + s_text (vc0 - v00)

v00: no text, no source; v0i: no text (or the negative prompt), source; vci: text and source. A branch whose factor is
zero is not computed.

In an interval of times both may be on, and off elsewhere, where the prediction by text and source alone is left: fewer
branches to compute (Kynkäänniemi et al. 2024).

By class there is one scale s, from the weaker to the stronger prediction: weak + s (strong - weak), where weak is the
same network without the label (classifier-free guidance) or a lesser network with it (autoguidance).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Branch:
    """One conditional branch: which text it reads, whether it sees the source, and its factor in the sum."""

    text: str  # "prompt", "negative" or "none"
    source: bool
    factor: float


WHOLE = (0.0, 1.0)  # the interval of all times


def branches(
    guidance_scale: float, image_guidance_scale: float, editing: bool, negative: bool = False, whole: bool = True
) -> tuple[Branch, ...]:
    """The branches to compute and their factors, which always sum to 1.

    The negative prompt takes the place of "no text": beside the source when editing, alone otherwise. Where guidance is
    not on at all times (`whole` is false), the prompt's own branch is there in any case, as the first.
    """
    empty = "negative" if negative else "none"
    if editing:
        candidates = (
            Branch("prompt", True, guidance_scale),
            Branch(empty, True, image_guidance_scale - guidance_scale),
            Branch("none", False, 1.0 - image_guidance_scale),
        )
    else:
        candidates = (Branch("prompt", False, guidance_scale), Branch(empty, False, 1.0 - guidance_scale))
    return tuple(
        branch for branch in candidates if branch.factor != 0.0 or (branch.text == "prompt" and not whole)
    )


def combine(velocities: Tensor, factors: tuple[float, ...]) -> Tensor:
    """Branch-major velocities (branches * B, ...) → guided velocity (B, ...)."""
    parts = velocities.chunk(len(factors))
    total = parts[0] * factors[0]
    for part, factor in zip(parts[1:], factors[1:], strict=True):
        total = total + part * factor
    return total


def check_scale(scale: float, name: str = "guidance_scale") -> None:
    """ValueError for what is no scale."""
    number = isinstance(scale, (int, float)) and not isinstance(scale, bool)
    if not number or not 0 <= scale <= 100:
        raise ValueError(f"{name} must be a number from 0 to 100, it is {scale!r}")


def check_interval(interval: tuple[float, float]) -> tuple[float, float]:
    """An interval of times as two floats; ValueError for what is none."""
    try:
        low, high = map(float, interval)
        good = 0 <= low <= high <= 1
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(f"a guidance interval is (low, high) with 0 <= low <= high <= 1, not {interval!r}")
    return low, high


def inside(t: float | Tensor, interval: tuple[float, float]) -> bool:
    """Both ends included. Compared in float32, the sampler's own precision: an end that is a step is met."""
    t, (low, high) = torch.as_tensor(t, dtype=torch.float32), torch.tensor(interval)
    return bool(low <= t <= high)


@dataclass(frozen=True)
class Schedule:
    """The scale of class guidance at every time.

    Args:
        scale: s where guidance is on; 1 is none.
        interval: the times, both ends included, at which it is on.
        reduced: the authors' `cfg_interval` in place of that: for low <= t < high of any of these pairs guidance is
            reduced to `reduced_scale`, elsewhere it is on (reference facts, Conventions).
        reduced_scale: inside those pairs; 1 and less mean none, as in the authors' code.
    """

    scale: float
    interval: tuple[float, float] = WHOLE
    reduced: tuple[tuple[float, float], ...] | None = None
    reduced_scale: float = 0.0

    def __post_init__(self):
        check_scale(self.scale)
        check_scale(self.reduced_scale, "the reduced guidance scale")
        object.__setattr__(self, "interval", check_interval(self.interval))
        if self.reduced is not None:
            pairs = [self.reduced] if isinstance(self.reduced, (int, float)) else self.reduced
            object.__setattr__(self, "reduced", tuple(map(check_interval, pairs)))

    def at(self, t: float | Tensor) -> float:
        """The scale at time t, compared as in `inside`."""
        if self.reduced is None:
            return self.scale if inside(t, self.interval) else 1.0
        t = torch.as_tensor(t, dtype=torch.float32)
        low, high = torch.tensor(self.reduced).view(-1, 2).unbind(1)
        reduced = bool(((low <= t) & (t < high)).any())
        if self.scale <= 1:  # the authors' code guides with scales above 1 only
            return 1.0
        return max(self.reduced_scale, 1.0) if reduced else self.scale
