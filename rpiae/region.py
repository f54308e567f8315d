"""Keep unchanged pixels: an edit touches only what the instruction asked to change.

A tokenizer loses detail everywhere, so showing the edited decode as it is would soften the whole picture.
Instead:

1. `snap`: latent tokens that moved less than the model's own noise are set back to the source's, and those
   that the edit does not change, where the transformer tells (`likely_area`).
2. Both latents are decoded. `change_mask` says where the two decodes differ: by hysteresis, with a small
   margin.
3. `composite`: where the mask is 0 the result has the input's own pixels, bit for bit, at the input's own
   resolution; elsewhere the edited decode.

All thresholds are absolute. They belong to a checkpoint: `train evaluate` measures them and its config
carries them.
"""

import math
from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
from PIL import Image, ImageChops
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from .images import Letterbox, to_pil

MAX_MARGIN = 4
REFERENCE_SIDE = 256


@dataclass(frozen=True)
class RegionSettings:
    """What counts as a change. Raises ValueError for values that make no sense.

    Lengths and areas are in pixels of a 256 px picture and scale with the side of the decode.
    """

    # A token counts as untouched up to this RMS difference over its channels, in the latents' own units.
    latent_threshold: float = 0.3
    # Where the transformer tells how likely an edit changes each part of the picture: less than this is
    # untouched.
    change_probability: float = 0.0
    # A pixel is surely changed above `high`, and also above `low` where it hangs together with one that is
    # above `high`. Largest difference over the three channels, in [0, 1].
    low: float = 0.05
    high: float = 0.15
    # Smaller spots are taken for noise. Never above 16: the strokes of a changed word are not much more.
    min_component: int = 16
    # Where more than this part of what may change did change, all of it counts as changed (tone and style
    # edits): holes would show as contours in gradients.
    full_coverage: float = 0.6
    # Margin around the change: first fully the edited decode, then fading out. Together at most 4.
    dilation: float = 2.0
    feather: float = 2.0

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ValueError(f"Region setting {field.name} must be a number from 0 on, not {value!r}.")
        if not self.low <= self.high <= 1:
            raise ValueError(f"Region settings need low <= high <= 1, not {self.low} and {self.high}.")
        if self.min_component > 16:
            raise ValueError(f"Region setting min_component must be at most 16, not {self.min_component}.")
        for name in ("full_coverage", "change_probability"):
            if getattr(self, name) > 1:
                raise ValueError(f"Region setting {name} must lie in [0, 1], not {getattr(self, name)}.")
        if self.dilation + self.feather > MAX_MARGIN:
            raise ValueError(
                f"Region settings dilation and feather make a margin of at most {MAX_MARGIN} px together, "
                f"not {self.dilation} + {self.feather}."
            )

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, settings: dict) -> "RegionSettings":
        """Raises ValueError for unknown names; those left out keep their defaults."""
        unknown = sorted(set(settings) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"Unknown region settings: {', '.join(unknown)}.")
        return cls(**settings)


def token_distance(source_latent: Tensor, edited_latent: Tensor) -> Tensor:
    """RMS over the channels, (B, C, h, w) twice → float32 (B, 1, h, w): what `latent_threshold` is held
    to."""
    return (edited_latent.float() - source_latent.float()).square().mean(dim=1, keepdim=True).sqrt()


def pixel_distance(source_decode: Tensor, edited_decode: Tensor) -> Tensor:
    """Largest difference over the channels of two pictures (B, 3, H, W), clamped to [0, 1] as they are shown
    → float32 (B, 1, H, W): what `low` and `high` are held to."""
    difference = edited_decode.float().clamp(0, 1) - source_decode.float().clamp(0, 1)
    return difference.abs().amax(dim=1, keepdim=True)


def allowed_area(painted: Image.Image, letterbox: Letterbox) -> Tensor:
    """A painted mask, "L" of the input's size from `images.load_mask`, in the square: (1, 1, S, S) of 0 and
    1.

    A square's pixel counts as painted if any of the input's pixels in it is; `composite` brings back the
    exact edge.
    """
    left, top, right, bottom = letterbox.box
    pixels = np.asarray(painted)
    rows = np.arange(bottom - top) * pixels.shape[0] // (bottom - top)
    columns = np.arange(right - left) * pixels.shape[1] // (right - left)
    area = np.zeros((1, 1, letterbox.size, letterbox.size), dtype=np.float32)
    area[0, 0, top:bottom, left:right] = (
        np.maximum.reduceat(np.maximum.reduceat(pixels, rows, 0), columns, 1) > 0
    )
    return torch.from_numpy(area)


def likely_area(probabilities: Tensor | None, settings: RegionSettings, side: int) -> Tensor | None:
    """Probabilities of a change (B, 1, m, m) → where it is likely enough, (B, 1, side, side) of 0 and 1; None
    where the transformer tells none."""
    if probabilities is None:
        return None
    likely = (probabilities >= settings.change_probability).float()
    return functional.interpolate(likely, size=(side, side), mode="nearest")


def snap(
    source_latent: Tensor,
    edited_latent: Tensor,
    settings: RegionSettings,
    allowed: Tensor | None = None,
    likely: Tensor | None = None,
) -> Tensor:
    """Edited latent (B, C, h, w) in which every token that did not really move is exactly the source's.

    `allowed`, (B or 1, 1, H, W) in [0, 1], also sets back the tokens in whose square nothing may change;
    `likely`, from `likely_area`, those in whose square nothing is likely to.
    """
    still = token_distance(source_latent, edited_latent) <= settings.latent_threshold
    for area in (allowed, likely):
        if area is not None:
            still = still | (functional.adaptive_max_pool2d(area, still.shape[-2:]) == 0).to(still.device)
    return torch.where(still, source_latent, edited_latent)


def change_mask(
    source_decode: Tensor,
    edited_decode: Tensor,
    settings: RegionSettings,
    allowed: Tensor | None = None,
    letterboxes: list[Letterbox] | None = None,
    likely: Tensor | None = None,
) -> Tensor:
    """Where an edit changed a picture: float (B, 1, H, W) in [0, 1], exactly 0 where it did not.

    `source_decode` and `edited_decode` are (B, 3, H, W) in about [0, 1]. `allowed`, (B or 1, 1, H, W),
    narrows the mask to where it is above 0; `letterboxes`, one a picture, keep it off the bars beside the
    pictures. Differences count only where `likely`, (B, 1, H, W), is above 0.
    """
    batch, _, height, width = source_decode.shape
    difference = pixel_distance(source_decode, edited_decode)[:, 0]
    if likely is not None:
        difference = torch.where(likely[:, 0].to(difference.device) > 0, difference, 0.0)
    difference = difference.cpu().numpy()
    mask = np.zeros((batch, 1, height, width), dtype=np.float32)
    for index in range(batch):
        may_change = np.zeros((height, width), dtype=bool)
        may_change[_box(letterboxes[index] if letterboxes else None, height, width)] = True
        if allowed is not None:
            may_change &= allowed[index % allowed.shape[0], 0].cpu().numpy() > 0
        mask[index, 0] = _mask_of_one(difference[index], may_change, settings)
    return torch.from_numpy(mask).to(source_decode.device)


def composite(
    original: Image.Image,
    edited_decode: Tensor,
    mask: Tensor,
    letterbox: Letterbox,
    painted: Image.Image | None = None,
) -> tuple[Image.Image, Image.Image]:
    """Edited decode over the original, and the mask with which that was done, both of the original's size.

    `original` is RGB as `images.load` gives it, `edited_decode` (3, S, S) and `mask` (1, S, S) lie in
    `letterbox`'s square, `painted` is "L" of the original's size. Where the returned "L" mask is 0 the pixels
    are the original's, bit for bit, and it is 0 wherever `mask` or `painted` is. Works on the changed part
    only, for large pictures.
    """
    if original.mode != "RGB" or original.size != letterbox.original_size:
        raise ValueError(
            f"The picture is {original.mode} of {original.size} pixels, but its letterbox is for RGB of "
            f"{letterbox.original_size}. Use the picture that load() gave."
        )
    result, full_mask = original.copy(), Image.new("L", original.size, 0)
    weights = to_pil(mask)[0].crop(letterbox.box)
    bounds = weights.getbbox()
    if bounds is None:
        return result, full_mask
    decode = to_pil(edited_decode)[0].crop(letterbox.box)
    across, down = original.width / weights.width, original.height / weights.height
    region = (
        math.floor(bounds[0] * across),
        math.floor(bounds[1] * down),
        min(math.ceil(bounds[2] * across), original.width),
        min(math.ceil(bounds[3] * down), original.height),
    )
    # The same region in the square's own, fractional pixels.
    box = (
        region[0] / across,
        region[1] / down,
        min(region[2] / across, weights.width),
        min(region[3] / down, weights.height),
    )
    tile_mask = _resize_mask(weights, original.size, region, box)
    if painted is not None:
        tile_mask = ImageChops.darker(tile_mask, painted.crop(region))
    tile = decode.resize(tile_mask.size, Image.Resampling.BICUBIC, box)
    # Pillow blends 8-bit values with rounding: weight 0 keeps a pixel as it is, weight 255 replaces it.
    result.paste(tile, region, tile_mask)
    full_mask.paste(tile_mask, region)
    return result, full_mask


def _box(letterbox: Letterbox | None, height: int, width: int) -> tuple[slice, slice]:
    if letterbox is None:
        return slice(None), slice(None)
    assert (letterbox.size, letterbox.size) == (height, width), (letterbox, height, width)
    left, top, right, bottom = letterbox.box
    return slice(top, bottom), slice(left, right)


def _mask_of_one(difference: np.ndarray, may_change: np.ndarray, settings: RegionSettings) -> np.ndarray:
    scale = max(difference.shape) / REFERENCE_SIDE
    changed = _hysteresis(difference, settings, least_area=settings.min_component * scale**2) & may_change
    if not changed.any():
        return np.zeros(difference.shape, dtype=np.float32)
    if changed.sum() > settings.full_coverage * may_change.sum():
        return may_change.astype(np.float32)
    distance = ndimage.distance_transform_edt(~changed)
    reach = (settings.dilation + settings.feather) * scale
    # 1 up to the dilation, then in equal steps down to 0 just beyond the reach.
    weight = np.clip((reach + 1 - distance) / (settings.feather * scale + 1), 0, 1)
    return np.where(may_change & (distance <= reach), weight, 0).astype(np.float32)


def _hysteresis(difference: np.ndarray, settings: RegionSettings, least_area: float) -> np.ndarray:
    """Connected regions (also over corners) above `low` that reach above `high` and are no specks."""
    components, _ = ndimage.label(difference > settings.low, structure=np.ones((3, 3)))
    keep = np.bincount(components.ravel()) >= least_area
    seeded = np.zeros_like(keep)
    seeded[components[difference > settings.high]] = True
    keep &= seeded
    keep[0] = False  # component 0 is everything at or below `low`
    return keep[components]


def _resize_mask(
    weights: Image.Image, full_size: tuple[int, int], region: tuple[int, int, int, int], box: tuple
) -> Image.Image:
    """`region` of an "L" mask at `full_size`, smooth, and exactly 0 wherever the given mask is 0.

    `box` is the region in the given mask's own pixels.
    """
    left, top, right, bottom = region
    soft = weights.resize((right - left, bottom - top), Image.Resampling.BILINEAR, box)
    if full_size[0] * full_size[1] > weights.width * weights.height:
        # Interpolation spreads half a pixel beyond the mask, where it must be cut off. What it reaches at
        # that edge is half of the smallest weight; let the mask fade out to there, so that the cut leaves
        # neither step nor staircase.
        least = min(value for value, count in enumerate(weights.histogram()) if value and count)
        cut = least / 2
        soft = soft.point([max(0, round((value - cut) * 255 / (255 - cut))) for value in range(256)])
    touched = np.asarray(weights) > 0
    rows = _touched_rows(touched, full_size[1], top, bottom)
    support = _touched_rows(rows.T, full_size[0], left, right).T
    return Image.fromarray(np.where(support, np.asarray(soft), 0))


def _touched_rows(touched: np.ndarray, length: int, start: int, stop: int) -> np.ndarray:
    """Rows start..stop of a boolean mask (n, m) brought to `length` rows, in whole numbers so that ties are
    exact.

    When enlarging, a row is the one under its centre; when shrinking, it is true where any row it covers is.
    """
    count, index = len(touched), np.arange(start, stop)
    if length >= count:
        return touched[(2 * index + 1) * count // (2 * length)]
    first, end = index * count // length, -(-(index + 1) * count // length)
    total = np.cumsum(np.pad(touched, ((1, 0), (0, 0))), axis=0, dtype=np.int32)
    return total[end] > total[first]
