"""Costs are counted, not guessed."""

import subprocess
import sys

import pytest
import torch

from train.config import load_config
from train.cost import BYTES_PER_TRAINABLE, EPOCHS, Cost, Machine, _activations, _flops, describe, stage_cost


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
    assert cost["pivot"].trainable + cost["representation"].total == cost["pivot"].total  # encoder, decoder, replica
    assert cost["bridge"].trainable < cost["decoder"].trainable < cost["bridge"].total
    draws = 4 * config.stages["edit"].draws  # one with a context of its own is about 10 GFLOP; here they share one
    assert 4e9 < cost["edit"].flops_per_sample / draws < 10e9
    weights = 2 * (cost["edit"].total) / 2**20
    assert weights <= 40, f"the bundled checkpoint would take {weights:.1f} MiB in float16"


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
