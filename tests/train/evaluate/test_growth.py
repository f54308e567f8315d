"""The growth of a checkpoint is read from what it says of itself, and a line through it is the line that it is."""

import json
import math

import pytest
from PIL import Image

from train.__main__ import main
from train.evaluate.growth import Point, line, markdown, scenes_until


def point(scenes: int, share: float, **changes) -> Point:
    given = {"editing_common": None, "text": 0.0, "text_common": None, "paraphrases": 0.0, "kept": 1.0}
    return Point(scenes=scenes, minutes=1, cases=10, editing=share, **given | changes)


def test_points_on_a_line_give_that_line():
    def share(scenes):
        return 1 / (1 + math.exp(-(0.5 * math.log(scenes) - 6)))

    points = [point(1, 0.9), *(point(n, share(n)) for n in (10_000, 20_000, 30_000, 40_000))]  # the first is too old
    assert line(points, "editing") == pytest.approx((0.5, -6))
    until = scenes_until(line(points, "editing"), 0.8)
    assert share(until) == pytest.approx(0.8)
    assert line(points, "editing_common") is None  # never measured
    assert line(points[:3], "editing") is None  # too few


def test_nothing_right_is_half_a_case_and_what_falls_reaches_nothing():
    flat = [point(n, 0.5) for n in (1, 2, 3, 4)]
    half = math.log(0.5 / 59.5)  # of 60 prompts
    slope, offset = line(flat, "text")
    assert (slope, offset) == (pytest.approx(0, abs=1e-9), pytest.approx(half))
    assert scenes_until((1e-16, half)) is None and scenes_until((0.0, half)) is None  # not "after 1e300 scenes"
    falling = [point(n, share) for n, share in ((10, 0.5), (20, 0.4), (30, 0.3), (40, 0.2))]
    assert scenes_until(line(falling, "editing")) is None
    assert "- edits right: a line through the log odds of the last 4 points hardly rises" in markdown(falling)


def test_the_command_adds_the_checkpoint_once(tmp_path, capsys):
    checkpoint, folder = tmp_path / "checkpoint", tmp_path / "growth"
    checkpoint.mkdir()
    command = ["growth", "smoke", f"checkpoint={checkpoint}", "--folder", str(folder)]
    assert main(command) == 2
    assert "has no tables.json; run: python -m train evaluate smoke" in capsys.readouterr().err
    rows = {"one": {"share": 0.25}, "other": {"share": 0.75}}
    tables = {
        "settings": {"n": 8}, "editing": rows, "text to image": {"one": {"share": 0.0}},
        "text to image, common nouns": rows, "paraphrases": {"share": 0.1}, "preservation": {"kept": 0.95},
    }  # fmt: skip
    (checkpoint / "tables.json").write_text(json.dumps(tables))
    legs = {"edit": [{"samples": 300, "minutes": 1.4}, {"samples": 700, "minutes": 2.2}], "bridge": [{"samples": 9}]}
    (checkpoint / "training.json").write_text(json.dumps(legs))
    for _ in range(2):
        assert main(command) == 0
    found = json.loads((folder / "smoke.json").read_text())
    assert found == [
        {
            "scenes": 1000, "minutes": 4, "cases": 8, "editing": 0.5, "editing_common": None, "text": 0.0,
            "text_common": 0.5, "paraphrases": 0.1, "kept": 0.95,
        }
    ]  # fmt: skip
    assert "| 1,000 | 4 | 50.0% | - | 0.0% | 50.0% | 10.0% | 95.0% |" in (folder / "smoke.md").read_text()
    with Image.open(folder / "smoke.png") as picture:
        assert picture.width > picture.height
