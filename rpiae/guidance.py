"""Guidance with two scales, for text and for the source picture (InstructPix2Pix, section 3.2).

    editing:        v = v00 + s_image (v0i - v00) + s_text (vci - v0i)
    text to image:  v = v00 + s_text (vc0 - v00)

v00: no text, no source; v0i: no text (or the negative prompt), source; vci: text and source. A branch whose factor is
zero is not computed.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Branch:
    """One conditional branch: which text it reads, whether it sees the source, and its factor in the sum."""

    text: str  # "prompt", "negative" or "none"
    source: bool
    factor: float


def branches(
    guidance_scale: float, image_guidance_scale: float, editing: bool, negative: bool = False
) -> tuple[Branch, ...]:
    """The branches to compute and their factors, which always sum to 1.

    The negative prompt takes the place of "no text": beside the source when editing, alone otherwise.
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
    return tuple(branch for branch in candidates if branch.factor != 0.0)


def combine(velocities: Tensor, factors: tuple[float, ...]) -> Tensor:
    """Branch-major velocities (branches * B, ...) → guided velocity (B, ...)."""
    parts = velocities.chunk(len(factors))
    total = parts[0] * factors[0]
    for part, factor in zip(parts[1:], factors[1:], strict=True):
        total = total + part * factor
    return total
