"""The transformer learns to tell which parts of a picture an edit changes, and the pipeline asks it."""

import math

import pytest
import torch

from rpiae import images
from train import stages
from train.config import load_config

HEAD = [f"models.transformer.head_{name}={value}" for name, value in (("layers", 1), ("size", 16), ("change_parts", 2))]


def edit_task(smoke_checkpoint, folder, *settings):
    torch.manual_seed(0)
    config = load_config("smoke", [f"init={smoke_checkpoint}", f"output={folder}", "stages.edit.change=1", *settings])
    return stages.Stages(config)._task("edit")


def test_it_learns_where_an_edit_changes_the_picture_and_the_pipeline_says_it(smoke_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "CARRY_PICTURES", 4)
    task = edit_task(smoke_checkpoint, tmp_path, *HEAD)
    batch = torch.utils.data.default_collate([task.dataset[i] for i in range(2)])
    optimizer = torch.optim.Adam(task.parameters(), 3e-3)
    history = []
    for _ in range(8):
        losses = task(batch)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        history.append(float(losses["change"].detach()))
    assert history[-1] < 0.8 * history[0]
    pipe = task.pipeline()
    pipe.set_progress_bar_config(disable=True)
    source = images.to_pil(batch["images"][0, :1].float() / 255)[0]
    edited = pipe(batch["texts"][0][0], image=source, num_inference_steps=2)
    side = 2 * task.transformer.config.sample_size
    assert edited.changes.shape == (1, 1, side, side) and 0 <= edited.changes.min() <= edited.changes.max() <= 1
    assert pipe("a cat", num_inference_steps=1).changes is None


def test_the_loss_is_that_of_the_changed_parts_of_edits():
    differs = torch.zeros(2, 1, 64, 64)
    differs[0, 0, 5, 40] = 1  # one pixel: the upper right of four parts
    right = torch.tensor([[[[-50.0, 50.0], [-50.0, -50.0]]]])
    logits = torch.cat([right, torch.zeros(1, 1, 2, 2)])
    loss = stages.DiffusionTask._change_loss
    assert loss(logits, differs, torch.tensor([True, False])) == pytest.approx(0, abs=1e-6)
    assert loss(logits, differs, torch.tensor([True, True])) == pytest.approx(math.log(2) / 2)


def test_a_transformer_that_cannot_tell_is_not_asked(smoke_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "CARRY_PICTURES", 4)
    with pytest.raises(ValueError, match="set models.transformer.head_change_parts"):
        edit_task(smoke_checkpoint, tmp_path)
