"""The readout: what each cell shows, read from the transformer's tokens on the way."""

import pytest
import torch

from rpiae.layers import map_to_tokens, patchify
from rpiae.text import TextEncoder
from rpiae.transformer import RPiAETransformer2DModel
from train import stages
from train.config import load_config
from train.data.pairs import ScenePairs
from train.data.pictures import COLORS, IGNORE
from train.tasks.diffusion import READERS, READOUT_CHANNELS, DiffusionTask, Readout


@pytest.fixture(scope="module")
def text_encoder() -> TextEncoder:
    return TextEncoder(**load_config("smoke").models.text_encoder)


def test_every_cell_is_read_from_its_own_part_of_the_token(text_encoder):
    width = READOUT_CHANNELS * 4
    transformer = RPiAETransformer2DModel(
        in_channels=READOUT_CHANNELS, sample_size=4, patch_size=2, hidden_size=width, num_layers=1, num_heads=8,
        feed_forward_size=8, text_width=8, text_slots=2,
    )  # fmt: skip
    readout = Readout(transformer, text_encoder)
    torch.nn.init.eye_(readout.to_cells.weight)
    torch.nn.init.zeros_(readout.to_cells.bias)
    cells = torch.randn(3, READOUT_CHANNELS, 4, 4)
    labels = {
        "phrase": torch.randint(0, 5, (3, 4, 4)), "color": torch.randint(0, len(COLORS), (3, 4, 4)),
        "style": torch.randint(0, 2, (3, 4, 4)), "size": torch.randint(0, 3, (3, 4, 4)),
        "offset": torch.randn(3, 4, 4, 2),
    }  # fmt: skip
    labels["color"][0] = IGNORE
    read = readout(patchify(cells, 2), labels)
    direct = readout.heads.losses(map_to_tokens(cells).flatten(0, 1), labels)
    assert read.keys() == direct.keys() == READERS.keys()
    for name in READERS:
        torch.testing.assert_close(read[name], direct[name])


def test_labels_are_those_of_the_pictures_that_are_drawn():
    source_first_second = {"phrase": torch.tensor([[0, 1, 2], [10, 11, 12]])}
    ordered = DiffusionTask._labels(source_first_second, draws=2)["phrase"]
    assert ordered.tolist() == [1, 1, 11, 11, 2, 2, 12, 12, 0, 0, 10, 10, 1, 1, 11, 11]
    item = ScenePairs(0, 30, 4, (8, 16, 16), 1)[2]
    shapes = {name: tuple(label.shape[:3]) for name, label in item["labels"].items()}
    assert shapes == dict.fromkeys(READERS, (3, 16, 16))


def test_asking_for_features_changes_no_prediction(smoke_checkpoint, text_encoder):
    transformer = RPiAETransformer2DModel.from_pretrained(smoke_checkpoint / "transformer")
    x = torch.randn(2, transformer.config.in_channels, 16, 16)
    t = torch.tensor([0.2, 0.9])
    given = {"text": text_encoder(["a cat", ""])}
    with torch.no_grad():
        plain = transformer(x, t, **given)
        read = transformer(x, t, **given, features_after=1)
    assert plain.features is None
    assert read.features.shape == (2, transformer.grid[0] * transformer.grid[1], transformer.config.hidden_size)
    assert torch.equal(plain.sample, read.sample)


def test_the_readout_learns_and_stays_out_of_the_checkpoint(smoke_checkpoint, tmp_path, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(stages, "CARRY_PICTURES", 4)
    settings = ["stages.edit.readout=1", "stages.edit.readout_layer=1"]
    config = load_config("smoke", [f"init={smoke_checkpoint}", f"output={tmp_path}", *settings])
    task = stages.Stages(config)._task("edit")
    batch = torch.utils.data.default_collate([task.dataset[i] for i in range(2)])
    optimizer = torch.optim.Adam(task.parameters(), 3e-3)
    history = []
    for _ in range(8):
        losses = task(batch)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        history.append({name: float(value.detach()) for name, value in losses.items()})
    for name in ("read_phrase", "read_color", "read_offset"):
        assert history[-1][name] < 0.9 * history[0][name], name
    task.export(tmp_path / "result")
    RPiAETransformer2DModel.from_pretrained(tmp_path / "result")  # strict: a key too many is an error
