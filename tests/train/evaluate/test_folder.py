"""Tokenizers on a folder of pictures: the crop, the numbers, and against scikit-image."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from rpiae import metrics
from rpiae.tokenizers import TokenizerInfo
from train.__main__ import main
from train.evaluate.features import Features
from train.evaluate.folder import PictureFolder, adm_center_crop, markdown, measure
from train.evaluate.frechet import frechet_distance, statistics

SIDE = 64


class Dimmer:
    """Halves the brightness."""

    info = TokenizerInfo("dimmer", (3, SIDE, SIDE), 1, 0, "here", "none", image_size=SIDE)

    def encode(self, x):
        return x

    def decode(self, z):
        return z / 2


class Colours:
    """A feature space of three numbers: the mean colour."""

    name = "mean colours"

    def __call__(self, pictures):
        mean = pictures.float().mean((2, 3))
        return Features(mean, mean)


def noise(width, height, seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "n01").mkdir()
    for number in range(5):
        noise(80 + 20 * number, 70, number).save(tmp_path / ("n01" if number % 2 else ".") / f"{number}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_crop_is_adms():
    exact = noise(SIDE, SIDE, 0)
    assert np.array_equal(adm_center_crop(exact, SIDE), exact)
    wide = noise(100, SIDE, 1)
    assert np.array_equal(adm_center_crop(wide, SIDE), np.asarray(wide)[:, 18 : 18 + SIDE])
    # Twice the size: a box filter, that is means of 2 x 2 pixels (rounded twice), and no resampling after it.
    tall = noise(2 * SIDE, 3 * SIDE, 2)
    halved = np.asarray(tall, dtype=float).reshape(3 * SIDE // 2, 2, SIDE, 2, 3).mean((1, 3))
    assert np.abs(np.asarray(adm_center_crop(tall, SIDE)) - halved[16 : 16 + SIDE]).max() <= 1
    between = noise(150, 90, 3)
    resized = between.resize((round(150 * SIDE / 90), SIDE), Image.Resampling.BICUBIC)
    left = (resized.width - SIDE) // 2
    assert np.array_equal(adm_center_crop(between, SIDE), np.asarray(resized)[:, left : left + SIDE])
    for size in ((65, 64), (1000, 333), (64, 200)):
        assert adm_center_crop(noise(*size, 4), SIDE).size == (SIDE, SIDE)


def test_psnr_and_ssim_are_scikit_images():
    rng = np.random.default_rng(0)
    x = rng.random((2, 3, SIDE, SIDE), dtype=np.float32)
    y = np.clip(x + rng.normal(0, 0.1, x.shape), 0, 1).astype(np.float32)
    ours = [metric(torch.from_numpy(x), torch.from_numpy(y)).tolist() for metric in (metrics.psnr, metrics.ssim)]
    for index in range(2):
        assert ours[0][index] == pytest.approx(peak_signal_noise_ratio(x[index], y[index], data_range=1), rel=1e-4)
        theirs = structural_similarity(
            x[index],
            y[index],
            data_range=1,
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert ours[1][index] == pytest.approx(theirs, abs=1e-3)


def test_numbers_of_a_known_tokenizer(folder):
    pictures = PictureFolder(folder, SIDE)
    assert [path.name for path in pictures.paths] == ["0.png", "2.png", "4.png", "1.png", "3.png"]
    row = measure(Dimmer(), pictures, Colours(), batch=2)
    seen = torch.stack([pictures[index] for index in range(5)])
    made = seen // 2  # half of an odd number is cut, not rounded
    errors = ((seen.double() - made.double()) / 255).square().mean((1, 2, 3))
    assert row["psnr"] == pytest.approx((-10 * errors.log10()).mean().item(), rel=1e-5)
    assert row["rfid"] == pytest.approx(
        frechet_distance(*(statistics(side.float().mean((2, 3))) for side in (made, seen)))
    )
    assert row["pictures"] == 5 and row["feature space"] == "mean colours"
    text = markdown([row])
    assert "rFID (mean colours)" in text and f"{row['psnr']:.2f}" in text
    assert f"| {SIDE} x {SIDE} | 5 |" in text and "own size" not in text
    assert "at its own size: compare rows of one size only" in markdown([row, row | {"image size": 256}])
    assert measure(Dimmer(), pictures, Colours(), batch=5)["psnr"] == pytest.approx(row["psnr"])
    assert measure(Dimmer(), PictureFolder(folder, SIDE, limit=2), None)["rfid"] is None


def test_command_measures_a_tokenizer(folder, smoke_checkpoint, tmp_path, capsys):
    out = tmp_path / "rows.json"
    arguments = ["measure-reconstruction", str(folder), "--tokenizer", f"rpiae={smoke_checkpoint}", "--limit", "2"]
    assert main([*arguments, "--features", "efficientnet-lite0", "--out", str(out)]) == 0
    [row] = json.loads(out.read_text())
    assert row["tokenizer"] == "rpiae" and row["pictures"] == 2 and row["rfid"] > 0
    shown = capsys.readouterr().out
    assert "EfficientNet-Lite0" in shown and smoke_checkpoint.name in shown


def test_a_mistake_about_the_last_shows_before_the_first_is_measured(folder, smoke_checkpoint, tmp_path, capsys):
    first = ["measure-reconstruction", str(folder), "--features", "none", "--tokenizer", f"rpiae={smoke_checkpoint}"]
    out, there = tmp_path / "rows.json", tmp_path / "there.json"
    there.write_text("[1]")
    for arguments, words in (
        (["--tokenizer", "sdvae", "--out", str(out)], "no tokenizer 'sdvae'"),
        (["--tokenizer", f"rpiae={tmp_path / 'nowhere'}", "--out", str(out)], "no checkpoint folder"),
        (["--out", str(folder)], "is a folder, wanted is a file"),
        (["--out", str(there / "rows.json")], "cannot be made"),
        (["--out", str(there)], "holds no rows of a table"),
    ):
        assert main([*first, *arguments]) == 2
        shown = capsys.readouterr()
        assert words in shown.err and shown.out == "" and not out.exists()
    assert there.read_text() == "[1]"


def test_rows_of_earlier_runs_stay(folder, smoke_checkpoint, tmp_path, capsys):
    out, arguments = tmp_path / "made" / "rows.json", ["measure-reconstruction", str(folder), "--features", "none"]
    arguments += ["--tokenizer", f"rpiae={smoke_checkpoint}", "--out", str(out)]
    assert main([*arguments, "--limit", "1"]) == 0
    [first] = json.loads(out.read_text())
    assert first["folder"] == str(folder)
    other = first | {"tokenizer": "other", "asked for": "other"}
    out.write_text(json.dumps([first | {"psnr": 0}, other]))
    assert main([*arguments, "--limit", "1"]) == 0
    assert json.loads(out.read_text()) == [other, first]  # the same question, answered anew
    assert main([*arguments, "--limit", "2"]) == 0
    assert [row["pictures"] for row in json.loads(out.read_text())] == [1, 1, 2]


def test_what_was_measured_is_shown_though_a_later_one_fails(folder, smoke_checkpoint, tmp_path, capsys, monkeypatch):
    measured = []

    def once(*arguments):
        measured.append(measure(*arguments))
        if len(measured) == 2:
            raise KeyboardInterrupt
        return measured[0]

    monkeypatch.setattr("train.evaluate.folder.measure", once)
    arguments = ["measure-reconstruction", str(folder), "--features", "none", "--limit", "1"]
    with pytest.raises(KeyboardInterrupt):
        main([*arguments, *2 * ["--tokenizer", f"rpiae={smoke_checkpoint}"]])
    assert capsys.readouterr().out.count("| rpiae |") == 1


def test_mistakes_are_told(folder, tmp_path, capsys):
    with pytest.raises(ValueError, match="there is no folder"):
        PictureFolder(tmp_path / "none", SIDE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no pictures"):
        PictureFolder(tmp_path / "empty", SIDE)
    (folder / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="broken.png is no picture"):
        measure(Dimmer(), PictureFolder(folder, SIDE), None)
    assert main(["measure-reconstruction", str(folder), "--tokenizer", "vae", "--features", "none"]) == 2
    assert "no tokenizer 'vae'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.gif", "b.TIFF"])
def test_pictures_of_all_formats_that_training_reads_are_measured(name, tmp_path):
    Image.new("RGB", (2 * SIDE, SIDE), (250, 0, 0)).save(tmp_path / name)
    [picture] = PictureFolder(tmp_path, SIDE)
    assert picture.shape == (3, SIDE, SIDE) and picture[0].min() > 200
