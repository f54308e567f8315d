"""Trials of settings train what they name from the start that they name, keep what is finished, and say what they
found."""

import json
import logging
from functools import partial

import pytest

from train.__main__ import main
from train.evaluate import settings_study
from train.evaluate.probe import probe

TRIALS = """
results: {folder}/trials.json
groups:
  pivot:
    question: Held how strongly?
    fresh: [decoder]
    stages: {{pivot: 16}}
    rows: {{held: [], again: [], free: [stages.pivot.pivot=0]}}
  bridge:
    question: How wide?
    fresh: [bridge]
    stages: {{bridge: 16, decoder: 8}}
    settings: [stages.bridge.semantic_channels=0]
    rows: {{"8 channels": [], "4 channels": [models.bridge.latent_channels=4]}}
  transformer:
    question: What is predicted?
    fresh: [transformer]
    stages: {{edit: 4}}
    rows: {{data: [], velocity: [models.transformer.prediction=velocity]}}
  leg:
    question: When?
    stages: {{edit: 4}}
    rows: {{"shift 2": [], "shift 8": [stages.edit.time_shift=8]}}
"""


@pytest.fixture
def command(smoke_checkpoint, tmp_path, monkeypatch):
    """Runs the study on some groups of small trials; returns its exit code."""
    monkeypatch.setattr(settings_study, "PICTURES", 4)
    monkeypatch.setattr(settings_study, "probe", partial(probe, fit=8, held_out=8))
    trials = tmp_path / "trials.yaml"
    trials.write_text(TRIALS.format(folder=tmp_path))
    base = ["study-settings", "smoke", f"output={tmp_path / 'runs'}", f"checkpoint={smoke_checkpoint}"]
    return lambda *more: main([*base, "--trials", str(trials), *more])


def test_rows_differ_in_what_they_name(command, tmp_path, capsys):
    assert command() == 0
    found = json.loads((tmp_path / "trials.json").read_text())
    numbers = {group: {row: one["numbers"] for row, one in rows.items()} for group, rows in found.items()}
    assert {group: list(rows) for group, rows in numbers.items()} == {
        "pivot": ["held", "again", "free"], "bridge": ["8 channels", "4 channels"], "transformer": ["data", "velocity"],
        "leg": ["shift 2", "shift 8"],
    }  # fmt: skip
    for group, column in {"bridge": "psnr", "transformer": "edit", "leg": "edit"}.items():
        one, other = numbers[group].values()
        assert one[column] != other[column]
    held, again, free = (one["psnr"] for one in numbers["pivot"].values())
    assert held == again != free  # one start, one order of data: what is no other setting is no other number
    assert numbers["bridge"]["4 channels"]["trained"] < numbers["bridge"]["8 channels"]["trained"]
    assert "noisy_psnr" in numbers["bridge"]["8 channels"] and "noisy_psnr" not in numbers["pivot"]["held"]
    table = (tmp_path / "trials.md").read_text()
    assert table in capsys.readouterr().out
    assert "**How wide?** (bridge anew; samples: bridge 16, decoder 8)" in table and "| 4 channels |" in table
    assert not list((tmp_path / "runs").glob("trial*"))  # weights are not kept


def test_a_row_is_trained_again_only_when_what_decides_it_has_changed(command, tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO)
    assert command("--groups", "leg") == 0
    before = (tmp_path / "trials.json").read_text()
    assert command("--groups", "leg", "stages.edit.log_every=1") == 0
    assert (tmp_path / "trials.json").read_text() == before
    assert "leg, shift 8: finished, skipped" in caplog.text
    assert command("--groups", "leg", "stages.edit.changed_weight=5") == 0
    assert (tmp_path / "trials.json").read_text() != before
    assert command("--groups", "leg,bridges") == 2
    assert "there is no group bridges; there are: pivot, bridge, transformer, leg" in capsys.readouterr().err


def test_what_cannot_be_tried_is_told_before_anything_is_trained(command, tmp_path, capsys):
    file = tmp_path / "trials.yaml"
    for before, after, said in (
        ("stages: {edit: 4}", "stages: {}", "groups.transformer.stages"),
        ("[models.transformer.prediction=velocity]", "[models.decoder.num_layers=2]", "say fresh: [decoder]"),
        ("stages: {pivot: 16}", "stages: {representation: 16}", "stage representation cannot be tried"),
    ):
        whole = file.read_text()
        assert before in whole
        file.write_text(whole.replace(before, after))
        assert command() == 2
        assert said in capsys.readouterr().err
        file.write_text(whole)
    assert not (tmp_path / "trials.json").exists()


def test_rows_of_another_start_are_left_out_of_the_table(command, tmp_path):
    assert command("--groups", " leg, ") == 0
    found = json.loads((tmp_path / "trials.json").read_text())
    trials = settings_study.load_trials(str(tmp_path / "trials.yaml"))
    assert "shift 8" in settings_study.markdown(trials, found)
    found["leg"]["shift 8"]["basis"] = "another"
    assert "shift 8" not in settings_study.markdown(trials, found)


def test_the_samplers_times_decide_the_numbers_of_transformers_alone(command, tmp_path, smoke_checkpoint):
    trials = settings_study.load_trials(str(tmp_path / "trials.yaml"))
    for title, decided in {"pivot": False, "bridge": False, "transformer": True, "leg": True}.items():
        plans = set()
        for shift in (2, 3):
            overrides = [f"checkpoint={smoke_checkpoint}", f"sampling.time_shift={shift}"]
            plans.add(next(settings_study.planned(trials, "smoke", overrides, [title]))[2].plan())
        assert len(plans) == 1 + decided


def test_the_bundled_trials_are_of_settings_that_there_are():
    trials = settings_study.load_trials("stickers-256")
    rows = list(settings_study.planned(trials, "stickers-256", [], list(trials.groups)))
    for title in trials.groups:
        of = [trial for group, _, trial in rows if group == title]
        assert [trial.config == trial.plain for trial in of] == [True] + [False] * (len(of) - 1)


def test_rows_of_a_group_warm_up_for_as_many_steps_and_average_alike():
    """In 100 steps an average has hardly left its start."""
    trials = settings_study.load_trials("stickers-256")
    for title, row, trial in settings_study.planned(trials, "stickers-256", [], list(trials.groups)):
        for name in trial.group.stages:
            own, plain = (config.stages[name] for config in (trial.config, trial.plain))
            steps = [stage.optimizer.warmup_samples / stage.batch_size for stage in (own, plain)]
            assert steps[0] == steps[1], f"{title}, {row}"
            averages = [(stage.ema_decay, stage.ema_warmup, stage.result) for stage in (own, plain)]
            assert averages[0] == averages[1], f"{title}, {row}"


def test_what_the_bundled_trials_found_is_of_rows_that_there_are():
    trials = settings_study.load_trials("stickers-256")
    found = settings_study.read(trials.results)
    assert found
    for title, rows in found.items():
        assert rows.keys() <= trials.groups[title].rows.keys()
