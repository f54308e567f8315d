"""Example pictures: what changes decides which edits are shown, however much of the picture stays."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from rpiae import RPiAEPipeline, recipe
from train.data.scenes import draw, sample_edit
from train.evaluate import examples
from train.evaluate.examples import psnr_of_change

KINDS = ("subject_remove", "color_alter")


class Perfect:
    """A checkpoint whose edits come out as asked; `lazy`, it hands back what it was given."""

    def __init__(self, checkpoint, lazy=False):
        self.pipe, self.lazy = RPiAEPipeline.from_pretrained(checkpoint), lazy
        rngs = [np.random.default_rng([examples.TAG, number]) for number in range(len(KINDS))]
        edits = [sample_edit(rng, kind) for rng, kind in zip(rngs, KINDS, strict=True) for _ in range(examples.TRIES)]
        self.answers = {(one.instruction, draw(one.source).tobytes()): draw(one.target) for one in edits}

    def __getattr__(self, name):
        return getattr(self.pipe, name)

    def __call__(self, prompt, image, generator):
        if isinstance(prompt, str):
            prompt, image = [prompt], [image]
        results = image
        if not self.lazy:
            asked = zip(prompt, image, strict=True)
            results = [Image.fromarray(self.answers[words, np.asarray(one).tobytes()]) for words, one in asked]
        return SimpleNamespace(images=results, change_masks=[Image.new("L", one.size) for one in image])


@pytest.fixture
def write(smoke_checkpoint, tmp_path, monkeypatch):
    """write(lazy=False) → how many examples came to `examples`, their sheet beside it."""
    for name, value in {"TRIES": 2, "BATCH": 2, "CATEGORIES": KINDS}.items():
        monkeypatch.setattr(examples, name, value)

    def write(lazy: bool = False) -> int:
        pipe = Perfect(smoke_checkpoint, lazy)
        return examples.write(pipe, smoke_checkpoint, tmp_path / "examples", tmp_path / "edits.png")

    return write


def test_examples_take_the_place_of_those_before(write, tmp_path):
    folder = tmp_path / "examples"
    assert write() == 4
    listed = json.loads((folder / "examples.json").read_text())
    assert {one["image"].partition("-")[2].removesuffix(".png") for one in listed[:2]} == set(KINDS)  # each kind first
    for one in listed:
        made = recipe.read(folder / one["result"])
        assert made.prompt == one["instruction"]
        with Image.open(folder / one["image"]) as source:
            assert made.source_sha256 == recipe.pixels_sha256(source)
    before = {file.name for file in folder.iterdir()}
    (folder / "left-over.png").touch()
    assert write() == 4
    assert {file.name for file in folder.iterdir()} == before and Image.open(tmp_path / "edits.png").height > 500


def test_nothing_is_removed_for_no_examples(write, tmp_path):
    folder = tmp_path / "examples"
    write()
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(ValueError, match="the judge accepts none"):
        write(lazy=True)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    (folder / "examples.json").unlink()
    with pytest.raises(ValueError, match="holds no examples"):
        write()
    assert {file.name for file in folder.iterdir()} == before.keys() - {"examples.json"}


def test_what_stays_does_not_hide_what_changed():
    source = np.zeros((64, 64, 3), np.uint8)
    target, result = source.copy(), source.copy()
    target[:8, :8] = 255
    result[:8, :4] = 255  # half of it done
    assert psnr_of_change(source, result, target) == pytest.approx(10 * np.log10(2))
    result[32:, 32:] = 51  # and something else spoiled: a fifth of the range in sixteen times the area
    spoiled = (32 * 1.0 + 1024 * 0.04) / (64 + 1024)
    assert psnr_of_change(source, result, target) == pytest.approx(-10 * np.log10(spoiled), rel=1e-4)
