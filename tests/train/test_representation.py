"""The compact representation encoder starts as pixels and room beside them."""

import torch

from train.config import load_config
from train.tasks.representation import PIXEL_SHARE, RepresentationTask


def test_it_starts_with_empty_channels_and_learns_every_label():
    torch.manual_seed(0)
    config = load_config("smoke")
    stage = config.stages["representation"]
    task = RepresentationTask(config, stage)
    task.start()
    filled = task.encoder.model.patch_embed.proj.weight.flatten(1).any(dim=1)
    assert filled.sum() == round(PIXEL_SHARE * len(filled))
    batch = torch.utils.data.default_collate([task.dataset[i] for i in range(stage.batch_size)])
    optimizer = torch.optim.Adam(task.parameters(), 3e-3)
    history = []
    for _ in range(25):
        losses = task(batch)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        history.append({name: float(value.detach()) for name, value in losses.items()})
    for name in ("phrase", "color", "style", "size", "offset"):
        assert history[-1][name] < 0.9 * history[0][name], name
    assert set(task.validate()) == {f"held_out_{k}" for k in ("phrase", "color", "style", "size", "offset", "pixels")}
