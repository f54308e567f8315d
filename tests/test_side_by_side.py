"""What the benchmarks share: works are timed in turn, and the table says what was met, missed and not measured."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.benchmarks import side_by_side as shared

BENCHMARKS = Path(__file__).resolve().parent / "benchmarks"


@pytest.fixture
def table(tmp_path):
    options = shared.parse(shared.parser("A benchmark.\nMore."), ["--output", str(tmp_path / "deep" / "bench")])
    made = shared.Table("speed", options)
    made.ratio("edit / round trip", 1.0, 5.0, most=0.25)
    made.ratio("without / with", 3.0, 2.0, least=1.8, note="30 steps")
    made.ratio("one / other", 4.0, 2.0, "MB")
    made.skip("on a GPU")
    return made


def test_works_run_in_turn_forwards_and_backwards_after_a_warm_up():
    order = []
    works = {name: lambda name=name: order.append(name) for name in "ab"}
    took = shared.side_by_side(works, 3)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert set(took) == {"a", "b"} and all(one >= 0 for one in took.values())


def test_the_median_counts(monkeypatch):
    times = iter([0.0, 1.0, 10.0, 210.0, 300.0, 302.0])  # begins and ends of three, of which one was disturbed
    monkeypatch.setattr(shared, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    assert shared.side_by_side({"nap": lambda: None}, 3) == {"nap": 2.0}


def test_a_table_is_written_twice_and_says_what_was_met(table, capsys):
    with pytest.raises(SystemExit, match="Missed: without / with"):
        table.finish()
    folder = table.options.output
    content = json.loads((folder / "bench_speed.json").read_text())
    assert content["benchmark"] == "speed" and content["quick"] is False and "torch" in content["machine"]
    assert [row["ratio"] for row in content["rows"]] == [0.2, 1.5, 2.0, None]
    assert [row["met"] for row in content["rows"]] == [True, False, None, None]
    lines = (folder / "bench_speed.md").read_text().splitlines()
    assert "| edit / round trip | 0.2 | 1 s | 5 s | at most 0.25 | met |" in lines
    assert "| without / with | 1.5 | 3 s | 2 s | at least 1.8 | **missed**; 30 steps |" in lines
    assert "| one / other | 2 | 4 MB | 2 MB |  |  |" in lines
    assert any(line.startswith("| on a GPU |") and "skipped" in line for line in lines)
    assert "\n".join(lines) in capsys.readouterr().out


def test_a_quick_run_measures_once_judges_nothing_and_says_so(table):
    table.options = shared.parse(shared.parser("A benchmark."), ["--quick", "--output", str(table.options.output)])
    assert table.options.repeats == 1
    table.finish()
    assert "its numbers say nothing" in (table.options.output / "bench_speed.md").read_text()


def test_the_makefile_gives_its_arguments_to_those_that_take_them():
    """`make bench ARGS="--quick --output DIR"` reaches every benchmark with a table; others are left alone."""
    texts = {file.stem: file.read_text(encoding="utf-8") for file in BENCHMARKS.glob("bench_*.py")}
    shared = {name for name, text in texts.items() if "side_by_side" in text}
    assert {"bench_edit", "bench_tokenizers", "bench_lightning", "bench_memory", "bench_start"} <= shared
    for name in shared:
        assert "[--quick]" in texts[name] and "[--output DIR]" in texts[name] and ".finish()" in texts[name]
    assert "grep -q side_by_side $$file" in (BENCHMARKS.parents[1] / "Makefile").read_text(encoding="utf-8")
