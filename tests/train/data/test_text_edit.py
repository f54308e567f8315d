"""Text-to-image and editing on data of one's own, through the real command: folders, shards and tables."""

import json
import shutil

import pytest
import torch
import yaml

from rpiae import RPiAEPipeline
from rpiae.transformer import RPiAETransformer2DModel
from tests.train.data.files import write_caption_shards, write_captions, write_edit_table, write_edits
from train.__main__ import main
from train.config import CONFIG_FOLDER, load_config
from train.cost import stage_cost
from train.loop import Loop
from train.stages import Stages

SIDE = 64


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory, smoke_checkpoint):
    """A checkpoint folder that holds a tokenizer alone."""
    folder = tmp_path_factory.mktemp("tokenizer")
    shutil.copytree(smoke_checkpoint / "vae", folder / "vae")
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory, tokenizer):
    """A text stage on captions in a folder and in shards, then a joint stage on triplets, a table and captions."""
    folder = tmp_path_factory.mktemp("text-edit")
    captions = {"kind": "folder", "path": str(write_captions(folder / "captions", 8, SIDE))}
    shards = {"kind": "webdataset", "path": str(write_caption_shards(folder / "shards", 2, 4, SIDE))}
    edits = {"kind": "folder", "path": str(write_edits(folder / "edits", 6, SIDE)), "weight": 2}
    table = {"kind": "table", "path": str(write_edit_table(folder / "tables" / "0.parquet", 8, side=SIDE).parent)}
    (folder / "edits" / "3b.png").write_bytes(b"broken")
    settings = yaml.safe_load((CONFIG_FOLDER / "smoke.yaml").read_text())
    stage = settings["stages"]["edit"] | {"samples": 16, "validate_every": 2}
    settings |= {"name": "text-edit", "output": str(folder / "run"), "init": str(tokenizer)}
    settings["stages"] = {
        "text": stage | {"data": {"sources": [captions, shards], "held_out": 2}},
        "edit": stage | {"data": {"sources": [edits, table, captions], "held_out": 2, "flip": True}},
    }
    file = folder / "text-edit.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    return file


def load(config):
    return load_config(str(config))


@pytest.fixture(scope="module")
def run(config):
    """The folder of a whole run by the command."""
    assert main([str(config), "all"]) == 0
    return load(config).output


def test_data_that_a_later_stage_misses_are_told_before_the_first_begins(config, tmp_path, capsys):
    settings = yaml.safe_load(config.read_text()) | {"output": str(tmp_path / "run")}
    settings["stages"]["edit"]["data"]["sources"][0]["path"] = str(tmp_path / "edits")
    file = tmp_path / "later.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    assert main([str(file), "all"]) == 2
    assert f"stage edit has no data: there is no folder '{tmp_path}/edits'" in capsys.readouterr().err
    assert not (tmp_path / "run" / "text").exists()


def test_the_command_trains_text_then_editing_and_leaves_a_checkpoint(run):
    records = {}
    for stage in ("text", "edit"):
        lines = [json.loads(line) for line in (run / stage / "log.jsonl").read_text().splitlines()]
        records[stage] = {name: value for record in lines for name, value in record.items()}
        assert all(value == value for value in records[stage].values()), "a number that is none"
        assert list((run / stage).glob("sheet-*.png"))
    assert {"caption", "held_out_caption", "skipped"} <= records["text"].keys() and "edit" not in records["text"]
    assert {"edit", "changed", "caption", "held_out_edit"} <= records["edit"].keys()
    assert records["edit"]["skipped"] >= 1, "the broken picture is counted"
    pipe = RPiAEPipeline.from_pretrained(run / "checkpoint")
    assert pipe(prompt="picture 1", num_inference_steps=1).images[0].size == (256, 256)


def test_the_edit_stage_goes_on_from_the_text_stage(run, config):
    before = RPiAETransformer2DModel.from_pretrained(run / "text" / "result").state_dict()
    after = Stages(load(config))._task("edit").transformer.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(run, config, tmp_path, monkeypatch):
    settings = load(config).model_copy(update={"output": tmp_path})
    shutil.copytree(run / "text", tmp_path / "text")
    step = Loop._step

    def killed(loop, parts):
        if loop.progress.step == 2:
            loop._save()
            raise KeyboardInterrupt
        return step(loop, parts)

    monkeypatch.setattr(Loop, "_step", killed)
    with pytest.raises(KeyboardInterrupt):
        Stages(settings).run("edit")
    monkeypatch.setattr(Loop, "_step", step)
    Stages(settings).run("edit")
    whole, resumed = (
        RPiAETransformer2DModel.from_pretrained(folder / "edit" / "result").state_dict() for folder in (run, tmp_path)
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_stage_without_its_tokenizer_or_forerunner_says_what_to_do(config, tmp_path, capsys):
    there = [f"output={tmp_path}", f"checkpoint={tmp_path}/none"]
    assert main([str(config), "text", "init=null", *there]) == 2
    assert "name its folder, init=" in capsys.readouterr().err
    assert main([str(config), "edit", *there]) == 2
    assert "stage 'text' of text-edit is not finished" in capsys.readouterr().err


def test_the_readout_needs_scenes(config):
    with pytest.raises(ValueError, match="readout asks what sticker scenes show"):
        load_config(str(config), ["stages.edit.readout=1"])


def test_text_edit_256_is_the_protocol_it_names():
    config = load_config("text-edit-256")
    text, edit = config.stages["text"], config.stages["edit"]
    assert (text.samples // text.batch_size, edit.samples // edit.batch_size) == (200_000, 50_000)
    assert text.data.sources[0].kind == "webdataset" and {s.kind for s in edit.data.sources} == {"table", "webdataset"}
    assert text.time_shift == (16 * 16 * 64 / 4096) ** 0.5
    assert 0.4e9 < stage_cost(config, "text").trainable < 0.6e9
