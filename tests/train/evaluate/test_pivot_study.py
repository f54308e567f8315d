"""The pivot study goes the whole way from an empty folder, beside a checkpoint that has its own stages finished."""

from functools import partial

import pytest

from train.__main__ import main
from train.evaluate import pivot_study
from train.evaluate.probe import probe


@pytest.mark.slow
def test_it_trains_what_it_compares_whatever_the_checkpoint_has(smoke_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pivot_study, "PICTURES", 4)
    monkeypatch.setattr(pivot_study, "probe", partial(probe, fit=8, held_out=8))
    settings = [f"output={tmp_path}", f"checkpoint={smoke_checkpoint}"]
    assert main(["study-pivot", "smoke", *settings]) == 0
    lines = [line.split(" | ")[0].strip("| ") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert lines[2:] == [
        "frozen representation", "stage 1 with the pivot loss", "stage 1 without the pivot loss",
        "latent after the bridge", "blind: the commonest answer",
    ]  # fmt: skip
    trained = {file.parts[-3] for file in tmp_path.glob("pivot-study/*/pivot/finished.json")}
    assert trained == {"frozen-representation", "stage-1-without-the-pivot-loss"}
    before = (tmp_path / "pivot" / "finished.json").stat().st_mtime_ns
    assert main(["study-pivot", "smoke", *settings]) == 0  # nothing is trained again
    assert (tmp_path / "pivot" / "finished.json").stat().st_mtime_ns == before
