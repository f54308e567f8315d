"""Costs are counted, not guessed."""

import subprocess
import sys

import pytest
import torch
from transformers import Qwen3Config, Qwen3Model

from tests.train.data.files import write_caption_shards, write_captions, write_edits
from train.config import load_config
from train.cost import (
    BYTES_PER_TRAINABLE,
    EPOCHS,
    Cost,
    Machine,
    _activations,
    _flops,
    _perceptual_network,
    describe,
    stage_cost,
)


def test_flops_of_one_linear_layer():
    with torch.device("meta"):
        assert _flops(torch.nn.Linear(10, 20, bias=False), torch.zeros(3, 10)) == 2 * 3 * 10 * 20


def test_activations_are_what_the_backward_pass_needs():
    with torch.device("meta"):
        layers = torch.nn.Sequential(torch.nn.Linear(10, 20), torch.nn.ReLU(), torch.nn.Linear(20, 5))
        x = torch.zeros(3, 10)
        # The input of both layers; the first one's output is the second one's input.
        assert _activations(layers, lambda: layers(x)) == 4 * (3 * 10 + 3 * 20)
        layers[0].requires_grad_(False)
        assert _activations(layers, lambda: layers(x)) == 4 * 3 * 20  # nothing to learn before it


def test_hours_and_what_fits():
    machine = Machine("a GPU", peak=100e12, share=0.5, memory_gib=10)
    assert machine.hours(100e12 * 3600) == pytest.approx(2.0)
    weights = 2**30 // BYTES_PER_TRAINABLE  # a GiB with all that belongs to them
    cost = Cost(weights, weights, flops_per_sample=1e9, activations=2**30, samples=10)
    assert cost.samples_at_a_time(machine) == 8  # of 9 GiB that are usable, one is taken


def test_judges_cost_and_looking_at_half_costs_half():
    def flops(share):
        config = load_config("smoke", ["stages.decoder.perceptual=1", f"stages.decoder.perceptual_share={share}"])
        return stage_cost(config, "decoder").flops_per_sample

    assert flops(1.0) - flops(0.5) == pytest.approx(flops(0.5) - flops(0.0)) and flops(0.5) > flops(0.0)


def test_a_discriminator_costs_its_heads_and_a_second_way_back():
    small = ["models.encoder.num_hidden_layers=1", "models.decoder.num_layers=1", "stages.decoder.samples=256"]

    def cost(first, perceptual):
        settings = {"gan_from": first, "discriminator.learns_from": first, "perceptual": perceptual}
        own = [f"stages.decoder.{name}={value}" for name, value in settings.items()]
        return stage_cost(load_config("paper-256", [*small, *own]), "decoder")

    never, from_half, always = ([cost(first, one) for one in (0.0, 1.0)] for first in (256, 128, 0))
    looked, again = (pair[1].flops_per_sample - pair[0].flops_per_sample for pair in (never, always))
    assert again == pytest.approx(looked * 4 / 3)  # at picture, reconstruction, and back to it: twice for the weight
    halves = (never[0].flops_per_sample + always[0].flops_per_sample) / 2
    assert from_half[0].flops_per_sample == pytest.approx(halves) and halves > never[0].flops_per_sample
    alone = [*small, "stages.decoder.gan=0", "stages.decoder.discriminator=null"]
    heads = 5 * (384 * 384 * (1 + 9) + 7 * 384 + 1)  # three convolutions with their biases, two norms
    assert always[0].trainable == stage_cost(load_config("paper-256", alone), "decoder").trainable + heads


def test_a_class_stage_says_what_papers_epochs_cost():
    # The config of the paper in small: a tenth of its layers.
    config = load_config("paper-256", [
        "models.encoder.num_hidden_layers=1", "models.decoder.num_layers=1", "models.class_transformer.num_layers=3",
    ])  # fmt: skip
    lines = dict(
        line.strip().rsplit(": ", 1) for line in describe(config, ["class"]).splitlines() if "epochs of" in line
    )
    short, long = (float(lines[f"{count} epochs of ImageNet, hours on one H100"]) for count in EPOCHS)
    assert long == pytest.approx(10 * short, rel=0.01) and long > 0
    assert float(lines["800 epochs of ImageNet, hours on one A100"]) > long


def test_stages_train_what_they_say():
    config = load_config("stickers-256")
    cost = {name: stage_cost(config, name) for name in config.stages}
    with torch.device("meta"):
        judge = sum(one.numel() for one in _perceptual_network("efficientnet-lite0").parameters())
    # Encoder and decoder, replica, judge.
    assert cost["pivot"].trainable + cost["representation"].total + judge == cost["pivot"].total
    assert cost["bridge"].trainable < cost["decoder"].trainable < cost["bridge"].total
    draws = 4 * config.stages["edit"].draws  # one with a context of its own is about 10 GFLOP; here they share one
    assert 4e9 < cost["edit"].flops_per_sample / draws < 10e9
    weights = 2 * (cost["edit"].total - cost["edit"].text_encoder) / 2**20  # that one is installed, not bundled
    assert weights <= 40, f"the bundled checkpoint would take {weights:.1f} MiB in float16"


def test_a_frozen_text_encoder_takes_its_room(tmp_path):
    sizes = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = Qwen3Config(**sizes, head_dim=64, intermediate_size=512, vocab_size=4000)
    model.save_pretrained(tmp_path)
    cost, missing = (
        stage_cost(load_config("smoke", [f"models.text_encoder.model={folder}"]), "edit")
        for folder in (tmp_path, tmp_path / "none")
    )
    own = Qwen3Model(model)
    count = sum(one.numel() for one in own.parameters())
    assert (cost.text_encoder, cost.total) == (count, missing.total + count) and not cost.notes
    assert cost.memory_gib - missing.memory_gib == pytest.approx(4 * count / 2**30)
    matrices = sum(one.numel() for name, one in own.named_parameters() if one.ndim == 2 and "embed" not in name)
    texts = 4 * 64  # word pieces of a sample of scenes
    assert cost.flops_per_sample - missing.flops_per_sample == pytest.approx(2 * texts * matrices, rel=0.1)
    (note,) = missing.notes
    assert note.startswith("the text encoder is not counted") and str(tmp_path / "none") in note


def test_captions_cost_one_picture_and_edits_two(tmp_path):
    write_captions(tmp_path / "captions", 2)
    write_edits(tmp_path / "edits", 2)
    write_caption_shards(tmp_path / "shards", 1, 2)

    def cost(*sources):
        return stage_cost(load_config("smoke", [f"stages.edit.data.sources=[{', '.join(sources)}]"]), "edit")

    captions = f"{{kind: folder, path: {tmp_path}/captions}}"
    edits = f"{{kind: folder, path: {tmp_path}/edits}}"
    one, two = cost(captions), cost(captions, edits)
    assert (one.pictures_per_sample, two.pictures_per_sample) == (1, 2) and not (one.notes or two.notes)
    scenes = stage_cost(load_config("smoke"), "edit")
    encoded = two.flops_per_sample - one.flops_per_sample
    assert encoded > 0 and scenes.flops_per_sample > 3 * encoded
    shards = f"kind: webdataset, path: {tmp_path}/shards"
    assert cost(f"{{{shards}, columns: {{caption: txt}}}}").pictures_per_sample == 1
    unread = cost(f"{{{shards}}}")
    assert unread.pictures_per_sample == 2 and "not read here, taken for edits" in unread.notes[0]
    assert not list((tmp_path / "shards").glob("*.npz")), "a dry run writes nothing"
    gone = cost("{kind: folder, path: nowhere, columns: {target: b}}", "{kind: table, path: nowhere}")
    assert gone.pictures_per_sample == 2 and len(gone.notes) == 1


def test_a_dry_run_prints_plain_integers_and_writes_nothing(tmp_path):
    command = [sys.executable, "-m", "train", "smoke", "edit", "--dry-run", f"output={tmp_path}/out"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"trainable parameters: {stage_cost(load_config('smoke'), 'edit').trainable}\n" in done.stdout
    assert "hours on one H100" in done.stdout and not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["nosuch", "all"], ["smoke", "nosuch"], ["smoke", "all", "seeds=1"]])
def test_mistakes_end_with_code_two_and_a_sentence(arguments):
    done = subprocess.run([sys.executable, "-m", "train", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
