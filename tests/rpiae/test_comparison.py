"""Numbers, latents and tables of a comparison, on tokenizers and latents whose answers are known."""

import csv
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from rpiae import images, metrics
from rpiae.recipe import pixels_sha256
from rpiae.tokenizers import TokenizerInfo
from rpiae.tokenizers.comparison import COLUMNS, Comparison, as_csv, as_json, compare, latent_picture, sheet
from rpiae.tokenizers.drawing import Drawing


class Halver:
    """Keeps every second pixel of a picture in its latent."""

    info = TokenizerInfo("halver", (3, 128, 128), 2, 0, "here", "none")

    def __init__(self) -> None:
        self.encoded = self.decoded = 0

    def encode(self, x):
        self.encoded += 1
        return x[..., ::2, ::2]

    def decode(self, z):
        self.decoded += 1
        return z.repeat_interleave(2, -1).repeat_interleave(2, -2)


@pytest.fixture
def picture() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((256, 128), Image.Resampling.BICUBIC)


def test_numbers_are_those_of_the_tensors(picture):
    tokenizer = Halver()
    found = compare(tokenizer, picture)
    x = images.to_tensor(picture)
    y = x[..., ::2, ::2].repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert torch.equal(found.reconstruction, y) and torch.equal(found.error, (x - y).abs())
    numbers = found.numbers()
    assert set(numbers) == set(COLUMNS)
    assert numbers["psnr"] == metrics.psnr(x, y).item() == pytest.approx(-10 * math.log10(((x - y) ** 2).mean()), 1e-4)
    assert numbers["ssim"] == metrics.ssim(x, y).item()
    assert (numbers["compression"], numbers["latent_shape"]) == (4.0, (3, 128, 128))
    assert numbers["sha256"] == pixels_sha256(images.to_pil(y)[0])
    assert numbers["encode_ms"] > 0 and numbers["decode_ms"] > 0
    assert tokenizer.encoded >= 2 and tokenizer.decoded >= 2  # the first run is not timed


def test_without_lpips_there_is_a_reason(picture):
    found = compare(Halver(), picture)
    assert (found.lpips is None) == bool(found.lpips_reason)
    thin = compare(Halver(), picture.crop((0, 0, 256, 20)))
    assert thin.lpips is None and "32 pixels" in thin.lpips_reason


@pytest.mark.parametrize("size", [(1200, 20), (20, 1200)])
def test_a_picture_too_thin_for_ssim_has_its_other_numbers(picture, size):
    found = compare(Halver(), picture.resize(size))
    assert found.ssim is None and "6 pixels" in found.ssim_reason
    assert " dB" in found.facts()[1] and "SSIM" not in found.facts()[1]
    assert sheet(picture.resize(size), [found]).height > 0
    [row] = csv.DictReader(io.StringIO(as_csv([found.numbers()])))
    assert row["ssim"] == "" and float(row["psnr"]) == found.psnr
    assert json.loads(as_json([found.numbers()]))["tokenizers"][0]["ssim"] is None


def ramp() -> torch.Tensor:
    """(1, 4, 4, 4): differs most along the columns, less along the rows, and not at all otherwise."""
    steps = torch.arange(4.0)
    latent = torch.full((1, 4, 4, 4), 7.0)
    latent[0, 0] = 10 * steps[None, :]
    latent[0, 1] = 3 * steps[:, None]
    return latent


def test_a_latent_is_shown_by_its_principal_components():
    shown, share = latent_picture(ramp(), 8, (0, 0, 8, 8))
    assert shown.shape == (1, 3, 8, 8) and share == pytest.approx(1)
    cells = shown[0].reshape(3, 4, 2, 4, 2)
    assert (cells == cells[:, :, :1, :, :1]).all()  # enlarged without smoothing
    red, green, blue = cells[:, :, 0, :, 0]
    assert (red[0] == red).all() and (red[0].diff() > 0).all()
    assert (green[:, :1] == green).all() and (green[:, 0].diff() > 0).all()
    assert torch.allclose(blue, torch.tensor(0.5))
    spread = torch.arange(4.0).std(correction=0).item()
    assert red[0, 0] == pytest.approx(0.5 - 1.5 / spread / 6, abs=1e-6)  # three deviations are half the range


def test_the_bars_of_a_letterbox_are_no_part_of_a_latents_picture():
    latent = ramp()
    latent[..., 0, :] = latent[..., 3, :] = 1e6
    inside = ramp()[..., 1:3, :]
    shown, _ = latent_picture(latent, 8, (0, 2, 8, 6))
    assert shown.shape == (1, 3, 4, 8)
    flat, _ = latent_picture(torch.cat([inside, inside], 2), 8, (0, 0, 8, 4))
    assert torch.allclose(shown, flat, atol=1e-6)


def test_latents_with_nothing_to_show():
    shown, share = latent_picture(torch.full((1, 2, 4, 4), 3.0), 8, (0, 0, 8, 8))
    assert (shown == 0.5).all() and share == 1
    assert latent_picture(torch.zeros(1, 16, 32), 8, (0, 0, 8, 8)) == (None, None)


def test_tables_hold_the_numbers_unrounded():
    class Same(Halver):
        def decode(self, z):
            return super().decode(z).round()

    even = Image.new("RGB", (256, 256), "white")
    rows = [compare(Same(), even).numbers(), Comparison("other", reason='no weights, "here"').numbers()]
    assert rows[0]["psnr"] == math.inf
    same, other = csv.DictReader(io.StringIO(as_csv(rows)))
    assert (same["psnr"], same["latent_shape"], same["name"]) == ("inf", "3x128x128", "halver")
    assert float(same["encode_ms"]) == rows[0]["encode_ms"]
    assert other["error"] == 'no weights, "here"' and {other[name] for name in COLUMNS[1:-1]} == {""}
    report = json.loads(as_json(rows, picture={"width": 256}))
    assert report["picture"] == {"width": 256} and list(report["tokenizers"][0]) == list(COLUMNS)
    assert report["tokenizers"][0]["psnr"] == "inf" and report["tokenizers"][1]["psnr"] is None
    assert report["tokenizers"][0]["encode_ms"] == rows[0]["encode_ms"]


def test_a_sheet_shows_every_size_at_one_and_drawings_below(picture):
    class Small(Halver):
        info = TokenizerInfo("small", (3, 32, 32), 2, 0, "here", "none", image_size=64)

    red, blue = torch.zeros(2, 1, 3, 32, 64)
    red[:, 0], blue[:, 2] = 1, 1
    rows = [compare(Halver(), picture), compare(Small(), picture)]
    assert "of 64x64 px" in " ".join(rows[1].facts()) and "of 256x256 px" in " ".join(rows[0].facts())
    assert [row.numbers()["image_size"] for row in rows] == [256, 64]
    rows = [
        replace(row, drawing=Drawing("more", 3, made, steps=2, guidance_scale=2.0, seconds=0.5))
        for row, made in zip(rows, (red, blue), strict=True)
    ]
    made = np.asarray(sheet(picture, rows))
    step, below = 256 + 16, 20 + 3 * (128 + 16)
    for column, colour in ((1, (255, 0, 0)), (2, (0, 0, 255))):
        left = 20 + column * step
        assert (made[below : below + 128, left : left + 256] == colour).all()
    words = [Comparison("small", Small.info, drawing=Drawing("a cat", 0, torch.ones(1, 3, 64, 64), 2, 2.0, 0.5))]
    assert sheet(None, words).height < made.shape[0] and words[0].facts()[-1].startswith("own model")
    other = Comparison("halver", Halver.info, drawing=Drawing("a cat", 0, reason="no model"))
    assert other.facts()[-1] == "no model" and other.numbers()["draw_error"] == "no model"
