"""Costs are counted, not guessed."""

import subprocess
import sys

import pytest
import torch

from train.config import load_config
from train.cost import _flops, stage_cost


def test_flops_of_one_linear_layer():
    with torch.device("meta"):
        assert _flops(torch.nn.Linear(10, 20, bias=False), torch.zeros(3, 10)) == 2 * 3 * 10 * 20


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
