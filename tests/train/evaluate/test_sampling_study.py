"""The sampling study measures what each setting really draws, and its command writes what it prints."""

import json

import pytest
from PIL import Image

from train.__main__ import main
from train.evaluate import sampling_study
from train.evaluate.sampling_study import CAVEAT, Row, Setting, best_of_each, curve, markdown


def test_each_setting_of_the_grid_gets_a_row(smoke_checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sampling_study, "CATEGORIES", ("color_alter", "background_change"))  # the judge takes its time
    monkeypatch.setattr(sampling_study, "SKILLS", ("single object",))
    grid = ["--steps", "1", "2", "--shifts", "3", "--guidance", "1", "--dtypes", "float32", "bfloat16"]
    few = ["--edits", "1", "--prompts", "1", "--checkpoint", str(smoke_checkpoint)]
    assert main(["study-sampling", "smoke", f"output={tmp_path}", *grid, *few]) == 0
    written = json.loads((tmp_path / "sampling-study.json").read_text())
    rows = [Row(Setting(**row.pop("setting")), **row) for row in written]
    assert [row.setting for row in rows] == [
        Setting(steps, 3.0, 1.0, 1.0, dtype) for steps in (1, 2) for dtype in ("float32", "bfloat16")
    ]
    assert markdown(rows) in capsys.readouterr().out
    # Untrained: nothing is right; another number of steps or another format is another picture.
    assert {(row.edits, row.prompts) for row in rows} == {(0.0, 0.0)}
    assert len({row.changed_error for row in rows}) == 4
    assert all(0.05 < row.changed_error < 1 and row.seconds > 0 for row in rows)
    text = (tmp_path / "sampling-study.md").read_text()
    assert f"{markdown(best_of_each(rows))}\n\n{CAVEAT}\n" in text and markdown(rows) in text
    with Image.open(tmp_path / "sampling-curve.png") as picture:
        assert picture.width > picture.height


def test_what_is_measured_is_kept_and_not_measured_again(smoke_checkpoint, tmp_path, monkeypatch):
    measured = []

    def study(pipe, settings, edits, prompts):
        for setting in settings:
            if setting.steps == 3 and len(measured) == 2:
                raise KeyboardInterrupt
            measured.append(setting.steps)
            yield Row(setting, 0.5, 0.25, 0.1, 1.0)

    def kept():
        return [row["setting"]["steps"] for row in json.loads((tmp_path / "sampling-study.json").read_text())]

    monkeypatch.setattr(sampling_study, "study", study)
    command = ["study-sampling", "smoke", f"output={tmp_path}", "--checkpoint", str(smoke_checkpoint), "--shifts", "8"]
    with pytest.raises(KeyboardInterrupt):
        main([*command, "--steps", "1", "2", "3"])
    assert kept() == [1, 2] and (tmp_path / "sampling-curve.png").is_file()
    measured.append("killed")
    assert main([*command, "--steps", "1", "2", "3"]) == 0
    assert measured == [1, 2, "killed", 3] and kept() == [1, 2, 3]
    assert main([*command, "--steps", "2", "--edits", "7"]) == 0  # of other cases
    assert measured[-1] == 2 and kept() == [2]


def row(steps: int, shift: float, edits: float, prompts: float = 0.5, error: float = 0.1) -> Row:
    return Row(Setting(steps, shift, 2.0), edits, prompts, error, 1.0)


def test_the_best_of_each_number_of_steps_is_that_with_most_edits_right():
    rows = [row(6, 2, 0.3), row(6, 8, 0.2), row(4, 2, 0.1, 0.4), row(4, 8, 0.1, 0.5), row(4, 30, 0.1, 0.5, 0.2)]
    assert best_of_each(rows) == [rows[3], rows[0]]


def test_the_curve_has_a_line_for_the_best_and_one_for_each_setting():
    rows = [row(6, 2, 0.3), row(6, 8, 0.2), row(4, 2, 0.1, 0.4), row(4, 8, 0.1, 0.5)]
    figure = curve(rows)
    edits, prompts = figure.axes
    shown = {line.get_label(): line.get_xydata().tolist() for line in edits.get_lines()}
    assert shown == {
        "the best setting of each number of steps": [[4, 0.1], [6, 0.3]],
        "shift 2, guidance 2, image guidance 1, float32": [[4, 0.1], [6, 0.3]],
        "shift 8, guidance 2, image guidance 1, float32": [[4, 0.1], [6, 0.2]],
    }
    assert [line.get_ydata().tolist() for line in prompts.get_lines()][-1] == [0.5, 0.5]
    assert "of settings that differ by chance alone, it is the luckiest" in figure.get_supxlabel()
