"""States are whole or not there, and the log is that of one run, whatever moment a process was killed at."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from accelerate import tracking
from accelerate.tracking import GeneralTracker
from safetensors.torch import load_file

from train.config import load_config
from train.loop import Loop
from train.stages import Stages
from train.states import Log, States
from train.tasks.representation import RepresentationTask

STAGE = "stages.representation"


def write(states, step):
    states.beside(step).mkdir()
    (states.beside(step) / "weights").write_text(str(step))
    states.commit(step)


def test_the_newest_states_are_kept_and_rubbish_is_swept(tmp_path):
    states = States(tmp_path, kept=2)
    for step in (5, 10, 100):
        write(states, step)
    states.beside(105).mkdir()  # killed while writing
    assert [state.name for state in states.all()] == ["state-00000010", "state-00000100"]
    states.sweep()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state-00000010", "state-00000100"]


def test_a_log_goes_on_from_the_state(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    log.rewind(3)  # nothing there yet
    for step in (1, 2, 3):
        log.write({"step": step, "loss": step / 2})
    with open(log.file, "a", encoding="utf-8") as stream:
        stream.write('{"step": 4, "lo')  # killed while writing
    log.rewind(2)
    log.write({"step": 3, "loss": 7.0})
    records = [json.loads(line) for line in log.file.read_text().splitlines()]
    assert records == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": 7.0}]


def settings(folder, *more):
    return [f"output={folder}", f"{STAGE}.log_every=2", f"{STAGE}.checkpoint_minutes=0", *more]


def run(folder, *more, **how):
    Stages(load_config("smoke", settings(folder, *more))).run("representation", **how)


def logged(folder):
    records = map(json.loads, (folder / "representation" / "log.jsonl").read_text().splitlines())
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


class Diary(GeneralTracker):
    """A tracker of somebody's own."""

    name, requires_logging_directory = "diary", False
    kept = []

    def __init__(self, run_name):
        super().__init__()
        self.run_name = run_name

    @property
    def tracker(self):
        return self.kept

    def store_init_configuration(self, values):
        self.kept.append((self.run_name, values))

    def log(self, values, step=None, **kwargs):
        self.kept.append((step, values))


def test_what_is_logged_goes_to_trackers_too(tmp_path, monkeypatch):
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "diary", Diary)
    run(tmp_path / "run", f"{STAGE}.trackers=[diary]")
    (name, settings), *told = Diary.kept
    assert name == "run-representation" and settings["batch_size"] == 8 and "lr" in settings["optimizer"]
    records = map(json.loads, (tmp_path / "run" / "representation" / "log.jsonl").read_text().splitlines())
    assert told == [(record["step"], record) for record in records]
    monkeypatch.setattr(tracking, "_available_trackers", [])
    run(tmp_path / "every", f"{STAGE}.trackers=[all]")
    with pytest.raises(ValueError, match=r"representation\.trackers: the package of wandb is not installed; pip"):
        run(tmp_path / "other", f"{STAGE}.trackers=[diary, wandb]")


@pytest.mark.slow
def test_killed_at_any_moment_a_run_goes_on_as_if_nothing_had_been(tmp_path):
    """The whole process, by SIGKILL, once while it trains and once more after it went on."""
    many = (f"{STAGE}.samples=160", f"{STAGE}.batch_size=4", f"{STAGE}.validate_every=20")
    run(tmp_path / "whole", *many)
    command = [sys.executable, "-m", "train", "smoke", "representation", "--resume"]
    command += settings(tmp_path / "killed", *many)
    states = States(tmp_path / "killed" / "representation", 2)
    for reached in (5, 17):
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            # A little after a state: while the next step is taken, or the next state is written.
            while process.poll() is None and not any(int(state.name[-8:]) >= reached for state in states.all()):
                time.sleep(0.002)
            os.kill(process.pid, signal.SIGKILL)
    assert not (states.folder / "finished.json").exists()
    run(tmp_path / "killed", *many)
    result = "representation/result/encoder.safetensors"
    one, other = (load_file(tmp_path / name / result) for name in ("whole", "killed"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")
    assert len(states.all()) == 2 and not list(states.folder.glob("*.part"))


def test_a_run_that_diverges_stops_and_goes_on_with_other_rates(tmp_path):
    with pytest.raises(ValueError, match=r"diverges at step 4 .*samples 24 to 31.*state-00000003: .*optimizer\.lr"):
        run(tmp_path, f"{STAGE}.diverging=1.1")  # the smoke config's rates are far too high
    lower = (f"{STAGE}.diverging=null", f"{STAGE}.optimizer.lr=1e-5", f"{STAGE}.keep_states=3")
    with pytest.raises(ValueError, match=r"other settings \(optimizer\)"):
        run(tmp_path, *lower)
    run(tmp_path, *lower, revise=True)
    revised = [record["revised"]["optimizer"]["lr"] for record in logged(tmp_path) if "revised" in record]
    assert revised == [1e-5]
    newest = States(tmp_path / "representation", 3).all()[-1]
    rates = [
        group["base_lr"]
        for file in sorted(newest.glob("optimizer*.bin"))
        for group in torch.load(file, weights_only=False)["param_groups"]
    ]
    assert 1e-5 in rates and max(rates) == load_config("smoke").stages["representation"].optimizer.muon_lr
    (tmp_path / "representation" / "finished.json").unlink()
    with pytest.raises(ValueError, match=r"optimizer.muon_lr was .* and is None"):
        run(tmp_path, f"{STAGE}.optimizer.muon_lr=null", revise=True)
    assert len(States(tmp_path / "representation", 3).all()) == 3


def test_a_loss_that_is_not_finite_names_samples_and_state(tmp_path):
    with pytest.raises(ValueError, match=r"not finite at step 1 \(samples 8 to 15\).*state-00000001: go on with"):
        run(tmp_path, f"{STAGE}.optimizer.lr=1e30")


def test_no_memory_for_the_models_is_no_matter_of_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(RepresentationTask, "prepare", lambda self: torch.empty(2**50))
    with pytest.raises(ValueError, match=r"out of memory at step 0 .*smaller batches do not help.*models\.\*"):
        run(tmp_path)


def test_a_loader_that_is_killed_is_told(tmp_path, monkeypatch):
    pictures = type(Stages(load_config("smoke"))._task("representation").dataset)
    whole = pictures.__getitem__

    def killed(self, index):
        if torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(self, index)

    monkeypatch.setattr(pictures, "__getitem__", killed)
    with pytest.raises(ValueError, match=rf"loads data failed at step 0, .*lower {STAGE}\.workers, now 1, and go on"):
        run(tmp_path, f"{STAGE}.workers=1")


@pytest.mark.parametrize("clip_norm", ["1", "null"])
def test_a_gradient_that_is_not_finite_names_its_own_batch(clip_norm, tmp_path, monkeypatch):
    def forward(self, batch):
        weight = next(parameter for parameter in self.parameters() if parameter.requires_grad)
        return {"loss": (weight.flatten()[0] * 0).sqrt()}  # 0, and its slope has no end

    monkeypatch.setattr(RepresentationTask, "forward", forward)
    with pytest.raises(ValueError, match=r"gradient is not finite at step 0 \(samples 0 to 7\), though the loss is"):
        run(tmp_path, f"{STAGE}.optimizer.clip_norm={clip_norm}")


def test_a_folder_in_which_another_process_trains_is_left_alone(tmp_path):
    run(tmp_path)  # its claim ends with it
    (tmp_path / "representation" / "finished.json").unlink()
    hold = "import sys; from pathlib import Path; from train.states import claimed\n"
    hold += "with claimed(Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(tmp_path / "representation")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(ValueError, match=rf"process {other.pid} on .* trains in {tmp_path}"):
            run(tmp_path)
        other.kill()
    run(tmp_path)


def test_machines_that_see_other_states_do_not_go_on(tmp_path):
    stages = Stages(load_config("smoke"))
    loop = Loop(stages._task("representation"), stages.config.stages["representation"], tmp_path / "representation")
    loop.accelerator.gather = lambda own: torch.cat([own, torch.tensor([5])])
    with pytest.raises(ValueError, match=r"do not see the same states in .* \(none, step 5, by process\)"):
        loop.run(resume=True)


def test_a_run_with_other_models_is_not_gone_on_with(tmp_path):
    run(tmp_path)
    other = "models.encoder.num_layers=1"
    with pytest.raises(ValueError, match="a finished representation stage .* with other settings, sizes of models"):
        run(tmp_path, other)
    (tmp_path / "representation" / "finished.json").unlink()
    with pytest.raises(ValueError, match=r"other settings \(models\)"):
        run(tmp_path, other)


def test_out_of_memory_says_which_setting_to_change(tmp_path, monkeypatch):
    # The allocator's own error, for a petabyte.
    monkeypatch.setattr(RepresentationTask, "forward", lambda self, batch: {"loss": torch.empty(2**50)})
    with pytest.raises(ValueError, match=r"out of memory at step 0 .*accumulate=2, .*4 samples at a time instead of 8"):
        run(tmp_path)
    # Then a smaller batch would save nothing.
    for precision, first in ("no", r"set stages.representation.precision=bf16, or lower"), ("bf16", "lower"):
        with pytest.raises(ValueError, match=rf"already, so {first} stages.representation.crop, now \d+, or make"):
            run(tmp_path / precision, f"{STAGE}.accumulate=8", f"{STAGE}.precision={precision}")
