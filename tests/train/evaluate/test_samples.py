"""Generated pictures against a reference batch: archives, folders, and what each number is of."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from train.__main__ import main
from train.evaluate import samples
from train.evaluate.features import Features
from train.evaluate.frechet import frechet_distance, precision_recall, statistics


class Corner:
    """A feature space of four numbers: the first pixels."""

    name = "corner"

    def __call__(self, pictures):
        pooled = pictures[:, :, 0, 0].float() / 255
        return Features(pooled, 4 * pooled)


class Corners(Corner):
    """With two places: the first pixels of the first and of the last row."""

    def __call__(self, pictures):
        found = super().__call__(pictures)
        return Features(found.pooled, found.logits, torch.cat([found.pooled, pictures[:, :, -1, 0].float() / 255], 1))


def pictures(count, seed, side=16):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def features(array):
    return torch.from_numpy(array[:, 0, 0].astype(np.float32) / 255)


def test_archive_is_read_batch_by_batch(tmp_path):
    array = pictures(7, 0)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", array)
        archive = samples.PictureArchive(tmp_path / "a.npz", 3)
        batches = list(archive)
        assert len(archive) == 7 and [len(batch) for batch in batches] == [3, 3, 1]
        assert torch.equal(torch.cat(batches), torch.from_numpy(array).permute(0, 3, 1, 2))


def test_numbers_against_pictures_and_against_statistics(tmp_path):
    made, real = pictures(40, 1), pictures(30, 2) // 2
    np.savez(tmp_path / "made.npz", made)
    np.savez(tmp_path / "pictures.npz", real)
    row = samples.measure(tmp_path / "made.npz", tmp_path / "pictures.npz", Corner(), batch=16)
    expected = frechet_distance(statistics(features(made)), statistics(features(real)))
    assert row["gfid"] == pytest.approx(expected) and expected > 0.01
    assert (row["precision"], row["recall"]) == pytest.approx(precision_recall(features(made), features(real)))
    assert row["precision"] < row["recall"]  # the real ones are all dark, the made ones of all kinds
    # ADM's references bring the statistics of all real pictures, and a part of the pictures.
    known = statistics(features(pictures(90, 3)))
    np.savez(tmp_path / "both.npz", arr_0=real, mu=known.mean, sigma=known.covariance)
    both = samples.measure(tmp_path / "made.npz", tmp_path / "both.npz", Corner())
    assert both["gfid"] == pytest.approx(frechet_distance(statistics(features(made)), known))
    assert both["precision"] == row["precision"] and both["inception score"] == row["inception score"]
    own = samples.measure(tmp_path / "made.npz", tmp_path / "both.npz", Corner(), stored=False)
    assert own["gfid"] == pytest.approx(row["gfid"])
    # Which of the two a number is against is said.
    assert both["reference"] == "both.npz" and both["reference pictures"] == 30
    table = samples.markdown(both)
    assert "gFID: against the reference's own statistics; precision, recall: against its 30 pictures." in table
    assert "\ngFID, precision, recall: against its 30 pictures." in samples.markdown(own) and "| both.npz |" in table
    np.savez(tmp_path / "statistics.npz", mu=known.mean, sigma=known.covariance)
    only = samples.measure(tmp_path / "made.npz", tmp_path / "statistics.npz", Corner())
    assert only["gfid"] == both["gfid"] and only["precision"] is None
    assert only["reference pictures"] is None
    assert "\ngFID: against the reference's own statistics.\n" in samples.markdown(only)
    assert "| corner |" in samples.markdown(only) and "50,000" in samples.markdown(only)
    with pytest.raises(ValueError, match="Inception's features only; corner needs"):
        samples.measure(tmp_path / "made.npz", tmp_path / "statistics.npz", Corner(), stored=False)


def test_spatial_distance_where_there_are_spatial_features(tmp_path):
    made, real = pictures(40, 1), pictures(30, 2) // 2
    np.savez(tmp_path / "made.npz", made)
    np.savez(tmp_path / "real.npz", real)
    first, second = (
        statistics(torch.from_numpy(np.concatenate([one[:, 0, 0], one[:, -1, 0]], 1).astype(np.float32) / 255))
        for one in (made, real)
    )
    row = samples.measure(tmp_path / "made.npz", tmp_path / "real.npz", Corners())
    assert row["sfid"] == pytest.approx(frechet_distance(first, second)) and row["sfid"] != row["gfid"]
    assert samples.measure(tmp_path / "made.npz", tmp_path / "real.npz", Corner())["sfid"] is None
    # ADM's references bring them as mu_s and sigma_s.
    names = {"mu": np.zeros(3), "sigma": np.eye(3), "mu_s": first.mean, "sigma_s": first.covariance}
    np.savez(tmp_path / "both.npz", arr_0=real, **names)
    stored = samples.measure(tmp_path / "made.npz", tmp_path / "both.npz", Corners())
    assert stored["sfid"] == pytest.approx(0, abs=1e-6)
    assert (row["sfid against"], stored["sfid against"]) == ("pictures", "statistics")


def test_a_folder_of_pictures_is_the_same_as_their_archive(tmp_path):
    array = pictures(9, 4)
    np.savez(tmp_path / "a.npz", array)
    (tmp_path / "folder").mkdir()
    for index, one in enumerate(array):
        Image.fromarray(one).save(tmp_path / "folder" / f"{index:06d}.png")
    given = [samples.measure(tmp_path / name, tmp_path / "a.npz", Corner(), batch=4) for name in ("a.npz", "folder")]
    assert given[0] == given[1] and given[0]["gfid"] == pytest.approx(0, abs=1e-6)
    Image.new("RGB", (16, 20)).save(tmp_path / "folder" / "odd.png")
    with pytest.raises(ValueError, match="square and of one size.*odd.png 16x20"):
        samples.open_samples(tmp_path / "folder", 4)


def test_mistakes_are_told(tmp_path, capsys):
    np.savez(tmp_path / "good.npz", pictures(5, 0))
    data = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[: len(data) // 2])
    np.save(tmp_path / "array.npy", pictures(5, 0))
    (tmp_path / "text.npz").write_text("a long story")
    np.savez(tmp_path / "floats.npz", pictures(5, 0) / 255)
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "empty.npz", arr_0=pictures(5, 0)[:0])
    for name, words in (
        ("cut.npz", "cut.npz is cut off or damaged"),
        ("array.npy", "array.npy is an .npy file, one array"),
        ("text.npz", "text.npz is no .npz file"),
        ("floats.npz", "should hold arr_0 of uint8"),
        ("other.npz", "holds no pictures"),
        ("empty.npz", "holds no pictures: its arr_0 is empty"),
        ("none.npz", "no file or folder"),
    ):
        with pytest.raises(ValueError, match=words):
            samples.measure(tmp_path / name, tmp_path / "good.npz", Corner())
    with pytest.raises(ValueError, match="neither mu and sigma nor arr_0"):
        samples.measure(tmp_path / "good.npz", tmp_path / "other.npz", Corner())
    for name, words in (
        ("cut.npz", "cut.npz is cut off or damaged"),
        ("array.npy", "array.npy is an .npy file, one array"),
        ("text.npz", "text.npz is no .npz file"),
        ("none.npz", "there is no file"),
        (".", "is a folder, wanted is an .npz"),
    ):
        with pytest.raises(ValueError, match=words):
            samples.open_reference(tmp_path / name)
    arguments = ["measure-samples", str(tmp_path / "good.npz"), str(tmp_path / "good.npz")]
    assert main([*arguments, "--inception", str(tmp_path / "inception.pth")]) == 2
    assert "'inception.pth' is not there" in capsys.readouterr().err


def test_command_writes_the_row(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", pictures(6, 0))
    arguments = [
        "measure-samples",
        str(tmp_path / "a.npz"),
        str(tmp_path / "a.npz"),
        "--features",
        "efficientnet-lite0",
    ]
    assert main([*arguments, "--out", str(tmp_path / "a.npz" / "row.json")]) == 2
    shown = capsys.readouterr()
    assert "cannot be made" in shown.err and not shown.out  # before anything was measured
    assert main([*arguments, "--out", str(tmp_path / "new" / "row.json")]) == 0
    row = json.loads((tmp_path / "new" / "row.json").read_text())
    assert row["samples"] == 6 and row["gfid"] == pytest.approx(0, abs=1e-3) and row["precision"] == 1
    shown = capsys.readouterr().out
    assert "EfficientNet-Lite0" in shown and "| a.npz |" in shown and "against its 6 pictures" in shown


def test_what_was_measured_is_shown_though_it_cannot_be_written(tmp_path, capsys, monkeypatch):
    np.savez(tmp_path / "a.npz", pictures(6, 0))
    out = tmp_path / "row.json"

    def in_the_way(*arguments, **_):
        out.mkdir()  # since it was looked at
        return found

    found = samples.measure(tmp_path / "a.npz", tmp_path / "a.npz", Corner())
    monkeypatch.setattr(samples, "measure", in_the_way)
    arguments = ["measure-samples", *2 * [str(tmp_path / "a.npz")], "--features", "efficientnet-lite0"]
    assert main([*arguments, "--out", str(out)]) == 2
    shown = capsys.readouterr()
    assert "| corner |" in shown.out and "row.json' was not written" in shown.err
