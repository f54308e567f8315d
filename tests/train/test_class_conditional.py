"""Class-conditional training: the authors' loss, the label dropped, and latents from disk as good as encoded ones."""

import os
import shutil

import pytest
import torch

from rpiae import AutoencoderRPiAE, LightningDiT2DModel, flow
from tests.train.data.files import picture, write_caption_shards
from tests.train.paper import CLASSES, write_classes
from train.config import ClassConditionalStage
from train.data.classes import ClassSamples
from train.tasks.class_conditional import ClassConditionalTask

STAGE = {
    "task": "class-conditional", "samples": 8, "batch_size": 4, "precision": "no", "optimizer": {"lr": 1e-3},
    "preview_steps": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def vae(golden) -> AutoencoderRPiAE:
    return AutoencoderRPiAE.from_official(golden.path("rpiae_stage3_1_c8_ema.pt"), 3, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_classes(tmp_path_factory.mktemp("classes") / "pictures")


@pytest.fixture
def make(vae, folder, golden):
    """A task on the authors' tiny models, with other settings of the stage."""

    def make(**settings) -> ClassConditionalTask:
        data = {"sources": [{"kind": "folder", "path": str(folder)}], "crop": "center", "flip": True}
        stage = ClassConditionalStage.model_validate(STAGE | {"data": data} | settings)
        transformer = LightningDiT2DModel.from_official(golden.path("dit_ep-0000800.pt"), 4)
        return ClassConditionalTask(stage, vae, transformer, seed=0)

    return make


def batch(task, count=8):
    return torch.utils.data.default_collate([task.dataset[i] for i in range(count)])


def test_the_loss_is_the_authors_number(make, golden):
    given = golden.tensors("dit.safetensors")
    task = make(drop_label=0.0)
    unshifted = given["fm_t"] / (task.stage.time_shift - (task.stage.time_shift - 1) * given["fm_t"])
    uniform = torch.special.ndtr(torch.logit(unshifted.double()))
    assert torch.allclose(flow.logit_normal_time(uniform, task.stage.time_shift).float(), given["fm_t"], atol=1e-5)
    part = {
        "latent": given["fm_data"], "noise": given["fm_noise"], "uniform": uniform.float(), "label": given["y"],
        "drop": torch.ones(3),
    }  # fmt: skip
    golden.check("dit.safetensors", "fm_loss_mean", task(part)["loss"].detach())


def test_a_dropped_label_is_the_label_of_no_class(make):
    task = make()
    seen = []
    task.transformer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[2]))
    part = batch(task)
    part["drop"] = torch.tensor([0.0, 0.09, 0.1, 0.11, 0.5, 0.9, 0.99, 0.0])
    task(part)
    dropped = torch.tensor([True, True, *[False] * 5, True])
    assert torch.equal(seen[0], torch.where(dropped, task.transformer.config.num_classes, part["label"]))
    assert set(part["label"].tolist()) <= set(range(CLASSES))


def test_pictures_are_flipped_by_half_and_samples_repeat(make):
    task = make()
    first, second = batch(task, 2), batch(task, 2)
    assert all(torch.equal(first[name], second[name]) for name in first)
    straight = make(data=task.stage.data.model_copy(update={"flip": False}).model_dump())
    same = [torch.equal(task.dataset[i]["image"], straight.dataset[i]["image"]) for i in range(12)]
    mirrored = [torch.equal(task.dataset[i]["image"].flip(-1), straight.dataset[i]["image"]) for i in range(12)]
    assert any(same) and any(mirrored) and all(a != b for a, b in zip(same, mirrored, strict=True))


def test_latents_from_disk_are_those_of_the_pictures_flips_included(make, tmp_path):
    encoding, reading = make(), make(latents=str(tmp_path / "latents"))
    reading.prepare()
    live, cached = batch(encoding), batch(reading)
    assert "image" not in cached and torch.equal(live["noise"], cached["noise"])
    assert torch.equal(live["label"], cached["label"])
    difference = (encoding.encode(live) - reading.encode(cached)).abs().max()
    assert 0 < difference < 1e-2 * encoding.encode(live).abs().max()  # float16
    assert float(encoding(live)["loss"]) == pytest.approx(float(reading(cached)["loss"]), rel=1e-2)
    written = (tmp_path / "latents" / "part-0-of-1.npy").stat().st_mtime_ns
    make(latents=str(tmp_path / "latents")).prepare()
    assert (tmp_path / "latents" / "part-0-of-1.npy").stat().st_mtime_ns == written


def test_a_part_that_was_cut_short_is_written_again(make, tmp_path):
    folder = tmp_path / "latents"
    make(latents=str(folder)).prepare()
    (folder / "part-0-of-1.json").unlink()  # as if killed while writing
    (folder / "part-0-of-1.npy").write_bytes(b"half")
    task = make(latents=str(folder))
    task.prepare()
    assert task.dataset[0]["latent"].shape == (8, 4, 4)


def test_latents_of_another_tokenizer_are_refused(make, tmp_path):
    folder = tmp_path / "latents"
    make(latents=str(folder)).prepare()
    settings = folder / "settings.json"
    settings.write_text(settings.read_text().replace('"tokenizer": "', '"tokenizer": "other'))
    with pytest.raises(ValueError, match=r"other latents \(not the same: tokenizer\): remove the folder"):
        make(latents=str(folder)).prepare()
    with pytest.raises(ValueError, match='one source with crop "center"'):
        data = make().stage.data.model_copy(update={"crop": "random"})
        make(latents=str(folder), data=data.model_dump())


def test_a_run_that_goes_on_elsewhere_writes_its_latents_again(make, tmp_path):
    """`prepare` is for every run, fresh or resumed."""
    make(latents=str(tmp_path / "here")).prepare()
    shutil.rmtree(tmp_path / "here")
    resumed = make(latents=str(tmp_path / "here"))
    resumed.prepare()
    assert resumed.dataset[0]["latent"].shape == (8, 4, 4)


def test_latents_of_as_many_other_pictures_are_refused(make, folder, tmp_path):
    own = shutil.copytree(folder, tmp_path / "pictures")
    settings = {"data": {"sources": [{"kind": "folder", "path": str(own)}]}, "latents": str(tmp_path / "latents")}
    make(**settings).prepare()
    make(**settings).prepare()
    (own / "class-0" / "0.png").rename(own / "class-0" / "other.png")
    with pytest.raises(ValueError, match=r"not the same: pictures"):
        make(**settings).prepare()


def test_the_settings_of_latents_are_whole_or_not_there(make, tmp_path, monkeypatch):
    def killed(*paths):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        make(latents=str(tmp_path)).prepare()
    assert not (tmp_path / "settings.json").exists()


def test_more_classes_than_the_transformer_knows_are_told(make):
    with pytest.raises(ValueError, match="3 class folders .* num_classes=1: give it as many as there are"):
        ClassSamples(make().dataset.reader, 8, 64, (8, 4, 4), 1)


def test_data_without_classes_are_refused(make, tmp_path):
    write_caption_shards(tmp_path / "shards", 1, 4)
    (tmp_path / "flat").mkdir()
    for i in range(4):
        picture(i).save(tmp_path / "flat" / f"{i}.png")
    for kind, name in (("webdataset", "shards"), ("folder", "flat")):
        with pytest.raises(ValueError, match=f"{name} has no classes: .* a folder of pictures for each class"):
            make(data={"sources": [{"kind": kind, "path": str(tmp_path / name)}]}, latents=str(tmp_path / "latents"))


def test_sources_that_count_their_classes_differently_are_refused(make, folder, tmp_path):
    same = {"kind": "folder", "path": str(shutil.copytree(folder, tmp_path / "same"))}
    make(data={"sources": [{"kind": "folder", "path": str(folder)}, same]})
    (tmp_path / "same" / "class-0").rename(tmp_path / "same" / "other")
    with pytest.raises(ValueError, match="same has other class folders than"):
        make(data={"sources": [{"kind": "folder", "path": str(folder)}, same]})


def test_a_picture_beside_the_class_folders_is_skipped_and_counted(make, folder, tmp_path):
    own = shutil.copytree(folder, tmp_path / "pictures")
    picture(0, 80, 80).save(own / "beside.png")
    task = make(data={"sources": [{"kind": "folder", "path": str(own)}], "held_out": 1})
    batch(task, 14)
    assert task.dataset.reader.counts()[str(own)] == {"read": 15, "skipped": 1}


def test_a_crop_that_cannot_be_cut_out_is_told(make):
    data = make().stage.data.model_copy(update={"crop": "random", "resize": 8})
    with pytest.raises(ValueError, match="resize=8 is smaller than the 64 pixels"):
        make(data=data.model_dump())


def test_checks_and_sheets_look_at_held_out_pictures(make):
    task = make()
    task.eval()
    with torch.no_grad():
        first, second = task.validate(), task.validate()
        assert first == second and first["held_out_loss"] > 0
        assert task.sheet().size == (8 * 64, 2 * 64)
