"""The sampling study measures what each setting really draws, and its command writes what it prints."""

import json

from train.__main__ import main
from train.evaluate import sampling_study
from train.evaluate.sampling_study import Row, markdown


def test_each_setting_of_the_grid_gets_a_row(smoke_checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sampling_study, "CATEGORIES", ("color_alter", "background_change"))  # the judge takes its time
    monkeypatch.setattr(sampling_study, "SKILLS", ("single object",))
    grid = ["--steps", "1", "2", "--shifts", "3", "--guidance", "1"]
    few = ["--edits", "1", "--prompts", "1", "--checkpoint", str(smoke_checkpoint)]
    assert main(["study-sampling", "smoke", f"output={tmp_path}", *grid, *few]) == 0
    rows = [Row(**row) for row in json.loads((tmp_path / "sampling-study.json").read_text())]
    assert [(row.steps, row.time_shift, row.guidance_scale) for row in rows] == [(1, 3.0, 1.0), (2, 3.0, 1.0)]
    assert markdown(rows) in capsys.readouterr().out
    # Untrained: nothing is right, and another number of steps is another picture.
    assert {(row.edits, row.prompts) for row in rows} == {(0.0, 0.0)}
    assert rows[0].changed_error != rows[1].changed_error
    assert all(0.05 < row.changed_error < 1 and row.seconds > 0 for row in rows)
