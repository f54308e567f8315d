"""A run that is stopped and resumed repeats an uninterrupted one bit for bit; what is half-written never counts."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from train.config import load_config
from train.loop import Loop
from train.optim import build_optimizers, rate
from train.publish import read_legs
from train.stages import Stages


class Stopped(Exception):
    pass


def train(tmp_path, name, stop_after=None):
    """The smoke config's tokenizer and edit stages; with `stop_after`, every stage is killed once after that many
    steps and started again."""
    folder = tmp_path / name
    config = load_config("smoke", [f"output={folder}", f"checkpoint={folder}/checkpoint"])
    for stage in config.stages:
        if stop_after is not None:
            with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
                patch.setattr(Loop, "_step", stopping(Loop._step, stop_after))
                Stages(config).run(stage)
        Stages(config).run(stage)
    Stages(config).publish()
    return folder


def stopping(step, after):
    def stop(loop, batch):
        if loop.progress.step == after:
            loop._save()
            raise Stopped
        return step(loop, batch)

    return stop


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs"), "whole")


def weights(folder):
    """Of the checkpoint, in float16, and of every stage's result, as it was trained."""
    files = sorted(folder.glob("checkpoint/**/*.safetensors")) + sorted(folder.glob("*/result/**/*.safetensors"))
    return {str(file.relative_to(folder)): load_file(file) for file in files}


@pytest.mark.slow
def test_resumed_runs_end_in_the_same_weights_bit_for_bit(whole, tmp_path):
    resumed = train(tmp_path, "resumed", stop_after=3)
    first, second = weights(whole), weights(resumed)
    assert first.keys() == second.keys() and len(first) == 2 + 5
    for file, tensors in first.items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, second[file][key]), f"{file}: {key}"


def test_a_finished_run_lists_its_legs_and_is_skipped(whole):
    legs = read_legs(whole / "checkpoint")
    assert list(legs) == ["representation", "pivot", "bridge", "decoder", "edit"]
    assert legs["edit"][0]["samples"] == 24
    before = (whole / "edit" / "log.jsonl").read_text()
    config = load_config("smoke", [f"output={whole}", f"checkpoint={whole}/checkpoint"])
    Stages(config).run("edit")
    assert (whole / "edit" / "log.jsonl").read_text() == before


def test_what_draws_is_not_published_with_another_tokenizer(whole, tmp_path):
    """As when the tokenizer's stages were run again beside a finished transformer."""
    shutil.copytree(whole, tmp_path / "run")
    config = load_config("smoke", [f"output={tmp_path}/run", f"checkpoint={tmp_path}/run/checkpoint"])
    assert Stages(config).finished("edit")
    vae = Stages(config).vae()
    (tmp_path / "run" / "decoder").rename(tmp_path / "aside")
    assert Stages(config).finished("edit"), "the checkpoint's copy, in float16, is the same tokenizer"
    (tmp_path / "aside").rename(tmp_path / "run" / "decoder")
    with torch.no_grad():
        next(vae.bridge.parameters()).mul_(1.5)
    vae.save_pretrained(Stages(config).result("decoder"))
    with pytest.raises(ValueError, match="edit stage that was trained on the latents of another tokenizer"):
        Stages(config).publish()


def test_a_checkpoint_alone_counts_as_finished(whole, tmp_path):
    config = load_config("smoke", [f"output={tmp_path}/empty", f"checkpoint={whole}/checkpoint"])
    stages = Stages(config)
    assert all(stages.finished(name) for name in config.stages)
    assert stages.vae().latent_shape == (8, 16, 16)


def test_logs_hold_losses_and_held_out_numbers(whole):
    records = [json.loads(line) for line in (whole / "decoder" / "log.jsonl").read_text().splitlines()]
    assert any("held_out_psnr" in record for record in records)
    assert any("perceptual" in record for record in records)
    assert list((whole / "edit").glob("sheet-*.png"))


def test_a_loss_that_is_not_finite_stops_with_what_to_try(tmp_path):
    config = load_config("smoke", [f"output={tmp_path}", "stages.representation.optimizer.lr=1e30"])
    with pytest.raises(ValueError, match="not finite at step .*lower learning rate"):
        Stages(config).run("representation")


def test_a_stage_whose_forerunner_is_missing_names_the_command(tmp_path):
    config = load_config("smoke", [f"output={tmp_path}", f"checkpoint={tmp_path}/none"])
    with pytest.raises(ValueError, match="python -m train smoke representation"):
        Stages(config).run("pivot")
    with pytest.raises(ValueError, match="no stage 'pivott'"):
        Stages(config).names("pivott")


def test_the_rate_warms_up_holds_and_decays():
    settings = load_config("smoke").stages["edit"].optimizer.model_copy(
        update={"warmup_samples": 10, "decay_share": 0.5, "final_lr": 0.1}
    )
    assert rate(4, 100, settings) == pytest.approx(0.5)
    assert rate(30, 100, settings) == 1.0
    assert rate(75, 100, settings) == pytest.approx(0.1 + 0.9 * 0.5)
    assert rate(100, 100, settings) == pytest.approx(0.1)


def test_muon_gets_the_blocks_matrices_and_adamw_the_rest():
    model = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([torch.nn.Linear(4, 4)]), "head": torch.nn.Linear(4, 4)})
    adamw, muon = build_optimizers(model, load_config("smoke").stages["edit"].optimizer)
    assert [p.shape for p in muon.param_groups[0]["params"]] == [(4, 4)]
    assert len(adamw.param_groups[0]["params"]) == 3
