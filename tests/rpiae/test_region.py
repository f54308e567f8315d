"""Keep unchanged pixels: what is snapped, what counts as changed, and that all the rest stays bit for bit."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from rpiae.images import Letterbox, letterbox, load_mask, to_pil, to_tensor
from rpiae.region import (
    RegionSettings,
    allowed_area,
    change_mask,
    composite,
    likely_area,
    pixel_distance,
    snap,
    token_distance,
)

SETTINGS = RegionSettings(latent_threshold=0.25, low=0.05, high=0.15)
SIZES = [(256, 256), (512, 512), (1024, 640), (300, 457), (700, 90), (64, 48), (33, 120), (1000, 1001)]


def noise_picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def decodes(side: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    """Two equal grey decodes, (1, 3, side, side), to draw changes into the second."""
    return torch.full((1, 3, side, side), 0.5), torch.full((1, 3, side, side), 0.5)


def random_blobs(rng: np.random.Generator, side: int = 256) -> torch.Tensor:
    """A mask (1, side, side) as `change_mask` makes them, from a few random rectangles."""
    source, edited = decodes(side)
    for _ in range(rng.integers(1, 5)):
        top, left = rng.integers(0, side - 8, 2)
        height, width = rng.integers(4, 60, 2)
        edited[..., top : top + height, left : left + width] = 0.9
    return change_mask(source, edited, replace(SETTINGS, full_coverage=1.0))[0]


def nearest(mask: torch.Tensor, frame: Letterbox) -> np.ndarray:
    """The square's mask at the original's size by the nearest pixel, in plain numpy."""
    left, top, right, bottom = frame.box
    width, height = frame.original_size
    inside = mask[0, top:bottom, left:right].numpy()
    rows = ((np.arange(height) + 0.5) * inside.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * inside.shape[1] / width).astype(int)
    return inside[rows][:, columns]


# --- settings --------------------------------------------------------------------------------------------


def test_settings_travel_as_json():
    settings = RegionSettings(latent_threshold=0.4, low=0.03, high=0.2, feather=1.5)
    assert RegionSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert RegionSettings.from_dict({"high": 0.2}).low == RegionSettings().low


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"low": 0.3, "high": 0.2}, "low <= high"),
        ({"dilation": 3, "feather": 2}, "at most 4"),
        ({"min_component": 17}, "at most 16"),
        ({"latent_threshold": float("nan")}, "latent_threshold"),
        ({"full_coverage": 1.2}, "full_coverage"),
        ({"low": "0.1"}, "low"),
        ({"change_probability": 1.5}, "change_probability"),
        ({"threshold": 1}, "Unknown region settings: threshold"),
    ],
)
def test_settings_that_make_no_sense(wrong, word):
    with pytest.raises(ValueError, match=word):
        RegionSettings.from_dict(wrong)


# --- snap ------------------------------------------------------------------------------------------------


def test_token_distance_is_the_rms_over_channels():
    source = torch.zeros(1, 4, 2, 2)
    edited = source.clone()
    edited[0, :, 0, 1] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    edited[0, 0, 1, 1] = 2.0
    assert torch.equal(token_distance(source, edited), torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]]))


def test_snap_sets_small_moves_back_bit_for_bit_and_leaves_the_others():
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        source = torch.randn(3, 32, 16, 16, generator=generator).to(dtype)
        moved = torch.rand(3, 1, 16, 16, generator=generator) < 0.2
        step = torch.randn(3, 32, 16, 16, generator=generator)
        edited = source + torch.where(moved, step, 0.05 * step).to(dtype)
        snapped = snap(source, edited, SETTINGS)
        assert torch.equal(snapped, torch.where(moved, edited, source))
        assert torch.equal(snap(source, source, SETTINGS), source)


def test_snap_with_threshold_zero_changes_nothing():
    source, edited = torch.randn(2, 1, 8, 4, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(snap(source, edited, replace(SETTINGS, latent_threshold=0)), edited)


def test_snap_leaves_tokens_outside_the_painted_mask_at_the_source():
    source, edited = torch.zeros(1, 8, 16, 16), torch.ones(1, 8, 16, 16)
    allowed = torch.zeros(1, 1, 256, 256)
    allowed[..., 40:41, 70:90] = 1  # one line of pixels in the tokens (2, 4) and (2, 5)
    snapped = snap(source, edited, SETTINGS, allowed)
    assert snapped[0, 0].nonzero().tolist() == [[2, 4], [2, 5]]


# --- change mask -----------------------------------------------------------------------------------------


def test_what_is_not_likely_to_change_does_not():
    """Told in four parts that only the upper left changes, a change all over counts there alone."""
    settings = replace(SETTINGS, change_probability=0.5, dilation=0, feather=0)
    likely = likely_area(torch.tensor([[[[0.5, 0.4], [0.1, 0.0]]]]), settings, 64)
    expected = torch.zeros(1, 1, 64, 64)
    expected[..., :32, :32] = 1
    assert torch.equal(likely, expected)
    source, edited = decodes(64)
    mask = change_mask(source, edited + 0.4, settings, likely=likely)
    assert torch.equal(mask, expected)
    latent = torch.zeros(1, 2, 4, 4)
    assert torch.equal(snap(latent, latent + 1, settings, likely=likely)[0, 0] == 1, expected[0, 0, ::16, ::16] == 1)
    assert likely_area(None, settings, 64) is None


def test_pixel_distance_takes_the_largest_channel_of_what_is_shown():
    source, edited = decodes(4)
    edited[0, 1, 0, 0] = 0.75
    edited[0, 2, 1, 1], source[0, 2, 1, 1] = 1.8, 1.0
    distance = pixel_distance(source, edited)
    assert distance[0, 0, 0, 0] == 0.25 and distance[0, 0, 1, 1] == 0 and distance.count_nonzero() == 1


def test_equal_decodes_and_noise_below_high_give_exactly_zero():
    source, _ = decodes()
    generator = torch.Generator().manual_seed(2)
    noisy = source + 0.14 * (2 * torch.rand(source.shape, generator=generator) - 1)
    for edited in (source, noisy):
        mask = change_mask(source, edited, SETTINGS)
        assert mask.shape == (1, 1, 256, 256) and mask.dtype == torch.float32 and not mask.any()


def test_change_is_full_inside_fades_out_and_ends_within_4_px():
    source, edited = decodes()
    edited[0, 0, 100:140, 60:120] = 0.8
    mask = change_mask(source, edited, SETTINGS)[0, 0].numpy()
    changed = np.zeros((256, 256), dtype=bool)
    changed[100:140, 60:120] = True
    distance = ndimage.distance_transform_edt(~changed)
    assert (mask[distance <= 2] == 1).all() and (mask[distance > 4] == 0).all()
    assert mask[120, 120:126].tolist() == pytest.approx([1, 1, 2 / 3, 1 / 3, 0, 0])


@pytest.mark.parametrize("margin", [(0, 0), (0, 4), (4, 0), (1, 2.5)])
def test_margins_hold_for_random_changes(margin):
    settings = replace(SETTINGS, dilation=margin[0], feather=margin[1])
    rng = np.random.default_rng(5)
    for _ in range(5):
        source, edited = decodes()
        for _ in range(3):
            top, left = rng.integers(0, 240, 2)
            edited[..., top : top + 9, left : left + 7] = 0.1
        changed = pixel_distance(source, edited)[0, 0].numpy() > 0
        distance = ndimage.distance_transform_edt(~changed)
        mask = change_mask(source, edited, settings)[0, 0].numpy()
        assert (mask[distance <= margin[0]] == 1).all()
        assert (mask[distance > sum(margin)] == 0).all()
        assert ((mask > 0) == (distance <= sum(margin))).all()


def test_hysteresis_keeps_a_faint_part_that_hangs_on_a_clear_one():
    source, edited = decodes()
    edited[..., 50:60, 50:60] = 0.9
    edited[..., 60:90, 60:70] = 0.58  # faint; touches the square by a corner only
    edited[..., 200:230, 200:230] = 0.58  # as faint, alone
    mask = change_mask(source, edited, SETTINGS)[0, 0]
    assert mask[85, 65] == 1 and not mask[190:240, 190:240].any()


def test_specks_go_and_thin_strokes_stay():
    source, edited = decodes()
    edited[..., 20, 20:35] = 0.9  # 15 px
    edited[..., 80, 20:36] = 0.9  # 16 px
    for step in range(20):
        edited[..., 150 + step, 100 + step] = 0.9  # a diagonal hair
    mask = change_mask(source, edited, SETTINGS)[0, 0]
    assert not mask[10:40].any() and mask[80, 20:36].all() and mask[169, 119] == 1


def test_above_the_full_coverage_all_is_changed():
    source, edited = decodes()
    edited[..., :150, :] = 0.6
    assert not change_mask(source, edited, SETTINGS)[0, 0, 200:].any()  # 59 %, and lowest differences
    edited[..., :150, :] = 0.8
    assert not change_mask(source, edited, SETTINGS)[0, 0, 200:].any()
    edited[..., :160, :] = 0.8
    assert (change_mask(source, edited, SETTINGS) == 1).all()


def test_nothing_lies_on_the_bars_and_coverage_counts_the_picture_only():
    _, frame = letterbox(Image.new("RGB", (320, 160)))
    assert frame.box == (0, 64, 256, 192)
    source, edited = decodes()
    edited[..., :66, :] = 0.9  # a change on the bar that reaches 2 px into the picture
    mask = change_mask(source, edited, SETTINGS, letterboxes=[frame])[0, 0]
    assert not mask[:64].any() and mask[64].all() and not mask[70:].any()
    edited[..., 64:150, :] = 0.9  # 67 % of the picture, 59 % of the square
    mask = change_mask(source, edited, SETTINGS, letterboxes=[frame])[0, 0]
    assert (mask[64:192] == 1).all() and mask.sum() == 128 * 256


def test_a_painted_mask_narrows():
    source, edited = decodes()
    edited[..., 100:140, 60:120] = 0.8
    allowed = torch.zeros(1, 1, 256, 256)
    allowed[..., 130:250] = 0
    allowed[..., 90:120, 50:200] = 1
    narrowed, free = (change_mask(source, edited, SETTINGS, area) for area in (allowed, None))
    assert torch.equal(narrowed, free * allowed) and narrowed.any()
    assert not change_mask(source, edited, SETTINGS, torch.zeros(1, 1, 256, 256)).any()


def test_pictures_of_a_batch_do_not_mix():
    pairs = []
    for seed in range(3):
        source, edited = decodes()
        top = 40 + 60 * seed
        edited[..., top : top + 20, 30:90] = 0.8
        pairs.append((source, edited))
    together = change_mask(*(torch.cat(side) for side in zip(*pairs, strict=True)), SETTINGS)
    assert torch.equal(together, torch.cat([change_mask(*pair, SETTINGS) for pair in pairs]))


@pytest.mark.parametrize("side", [64, 128, 512])
def test_lengths_scale_with_the_decode(side):
    source, edited = decodes(side)
    edited[..., side // 4 : side // 2, side // 4 : side // 2] = 0.9
    mask = change_mask(source, edited, SETTINGS)[0, 0]
    margin = 4 * side // 256
    end = side // 2 - 1 + margin
    assert mask[side // 3, end] > 0 and mask[side // 3, end + 1] == 0


# --- painted area ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_allowed_area_covers_all_paint_and_not_much_more(size):
    rng = np.random.default_rng(7)
    _, frame = letterbox(Image.new("RGB", size))
    painted = np.zeros(size[::-1], dtype=np.uint8)
    x, y = rng.integers(0, size[0] - 8), rng.integers(0, size[1] - 8)
    painted[y : y + 8, x : x + 8] = 255
    area = allowed_area(load_mask(painted, size), frame)
    assert area.shape == (1, 1, 256, 256) and set(area.unique().tolist()) == {0, 1}
    left, top, right, bottom = frame.box
    ys, xs = area[0, 0].nonzero(as_tuple=True)
    across, down = (right - left) / size[0], (bottom - top) / size[1]
    assert left + x * across - 1 < xs.min() <= left + x * across + 1
    assert left + (x + 8) * across - 1 <= xs.max() + 1 <= left + (x + 8) * across + 1
    assert top + y * down - 1 < ys.min() <= top + y * down + 1
    single = np.zeros(size[::-1], dtype=np.uint8)
    single[y, x] = 255
    assert allowed_area(Image.fromarray(single), frame).any()


# --- composite -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_untouched_pixels_are_the_inputs_own(size):
    rng = np.random.default_rng(size[0])
    original = noise_picture(size)
    _, frame = letterbox(original)
    decode = torch.rand(3, 256, 256, generator=torch.Generator().manual_seed(1))
    touched = 0
    for _ in range(4):
        mask = random_blobs(rng)
        result, full_mask = composite(original, decode, mask, frame)
        assert result.size == full_mask.size == size and (result.mode, full_mask.mode) == ("RGB", "L")
        before, after, weight = (np.asarray(picture) for picture in (original, result, full_mask))
        assert np.array_equal(before[weight == 0], after[weight == 0])
        if frame.box[2] - frame.box[0] <= size[0] and frame.box[3] - frame.box[1] <= size[1]:
            assert not weight[nearest(mask, frame) == 0].any()
        touched += (before != after).any(axis=2).sum()
    assert touched > 0


@pytest.mark.parametrize("size", [(256, 256), (512, 512), (1024, 640), (300, 457), (64, 48)])
def test_inside_the_change_is_the_decode_at_the_right_place(size):
    original = Image.new("RGB", size, "white")
    _, frame = letterbox(original)
    decode = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(2))
    decode = torch.nn.functional.interpolate(decode[None], 256, mode="bilinear")[0]
    mask = torch.zeros(1, 256, 256)
    mask[:, 60:200, 70:190] = 1
    result, full_mask = composite(original, decode, mask, frame)
    expected = np.asarray(frame.undo(to_pil(decode)[0])).astype(int)
    inside = np.asarray(full_mask) == 255
    assert inside.mean() > 0.1
    assert np.abs(np.asarray(result)[inside] - expected[inside]).max() <= 2


def test_at_the_squares_own_size_the_mask_is_as_given_and_the_blend_is_exact():
    original = noise_picture((256, 256))
    _, frame = letterbox(original)
    decode = torch.rand(3, 256, 256, generator=torch.Generator().manual_seed(3))
    mask = random_blobs(np.random.default_rng(11))
    result, full_mask = composite(original, decode, mask, frame)
    weight = (mask[0].numpy() * 255).round()
    assert np.array_equal(full_mask, weight)
    new = np.asarray(to_pil(decode)[0]).astype(float)
    blended = (np.asarray(original) * (255 - weight[..., None]) + new * weight[..., None]) / 255
    assert np.abs(np.asarray(result) - blended).max() <= 0.51


@pytest.mark.parametrize("size", SIZES)
def test_a_full_mask_gives_the_whole_decode_and_an_empty_one_the_input(size):
    original = noise_picture(size)
    square, frame = letterbox(original)
    decode = to_tensor(square)[0]
    left, top, right, bottom = frame.box
    full = torch.zeros(1, 256, 256)
    full[:, top:bottom, left:right] = 1
    result, full_mask = composite(original, decode, full, frame)
    assert full_mask.getextrema() == (255, 255)
    assert np.array_equal(result, frame.undo(square))
    result, full_mask = composite(original, decode, torch.zeros(1, 256, 256), frame)
    assert result is not original and np.array_equal(result, original) and full_mask.getbbox() is None


def test_the_bars_never_reach_the_picture():
    original = noise_picture((500, 200))
    _, frame = letterbox(original)
    decode = torch.rand(3, 256, 256, generator=torch.Generator().manual_seed(4))
    left, top, right, bottom = frame.box
    other_bars = torch.zeros(3, 256, 256)
    other_bars[:, top:bottom, left:right] = decode[:, top:bottom, left:right]
    everywhere = torch.ones(1, 256, 256)
    results = [composite(original, picture, everywhere, frame)[0] for picture in (decode, other_bars)]
    assert np.array_equal(*results)


@pytest.mark.parametrize("size", [(256, 256), (1024, 640), (300, 457), (64, 48)])
def test_outside_the_paint_nothing_changes_at_full_resolution(size):
    original = noise_picture(size)
    _, frame = letterbox(original)
    rows, columns = np.indices(size[::-1])
    disc = (rows - size[1] / 2) ** 2 + (columns - size[0] / 3) ** 2 < (min(size) / 3) ** 2
    painted = load_mask(disc.astype(np.uint8) * 255, size)
    source, edited = decodes()
    edited[:] = 0.9
    mask = change_mask(source, edited, SETTINGS, allowed_area(painted, frame), [frame])[0]
    result, full_mask = composite(original, edited[0], mask, frame, painted)
    before, after, weight = (np.asarray(picture) for picture in (original, result, full_mask))
    assert np.array_equal(before[~disc], after[~disc]) and not weight[~disc].any()
    core = ndimage.binary_erosion(disc, iterations=max(2, round(max(size) / 128)))
    assert (weight[core] == 255).all()


def test_enlarged_masks_fade_to_zero_without_steps():
    """At 8 times the size no weight jumps, neither where the fading ends nor where the mask is cut off."""
    original = Image.new("RGB", (2048, 2048))
    _, frame = letterbox(original)
    for feather in (1, 2):
        source, edited = decodes()
        edited[..., 100:140, 60:120] = 0.9
        mask = change_mask(source, edited, replace(SETTINGS, feather=feather))[0]
        weight = np.asarray(composite(original, edited[0], mask, frame)[1]).astype(int)
        steps = np.abs(np.diff(weight[960, :], axis=0))
        assert steps.max() <= 255 / (8 * (feather + 0.5)) + 2


def test_12_megapixels_work_on_the_changed_part_only(monkeypatch):
    original = noise_picture((4000, 3000))
    _, frame = letterbox(original)
    source, edited = decodes()
    edited[..., 120:140, 60:100] = 0.9
    mask = change_mask(source, edited, SETTINGS, letterboxes=[frame])[0]
    sizes, resize = [], Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *rest: sizes.append(size) or resize(self, size, *rest)
    )
    result, full_mask = composite(original, edited[0], mask, frame)
    assert sizes and max(width * height for width, height in sizes) < 49 * 29 * 16**2
    before, after, weight = (np.asarray(picture) for picture in (original, result, full_mask))
    assert np.array_equal(before[weight == 0], after[weight == 0])
    assert not weight[nearest(mask, frame) == 0].any()
    assert 0.9 < (weight == 255).sum() / (44 * 24 * (4000 / 256) ** 2) < 1.1


def test_a_foreign_letterbox_is_refused():
    _, frame = letterbox(Image.new("RGB", (300, 200)))
    for picture in (Image.new("RGB", (200, 300)), Image.new("RGBA", (300, 200))):
        with pytest.raises(ValueError, match="letterbox"):
            composite(picture, torch.zeros(3, 256, 256), torch.zeros(1, 256, 256), frame)
