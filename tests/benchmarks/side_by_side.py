"""What all benchmarks share: works timed side by side in one run, and the table of their ratios.

    options = parse(__doc__)                                   # --output, --repeats, --quick
    table = Table("edit", options)
    took = side_by_side({"edit": edit, "round trip": trip}, options.repeats)
    table.ratio("whole edit / SD-VAE round trip", took["edit"], took["round trip"], most=0.2)
    table.finish()                                             # bench_edit.json, bench_edit.md, and on the screen

Machines differ and are never quite idle, so what is judged is a ratio of two numbers of the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "assets" / "checkpoints" / "stickers-256"
NO_GPU = "needs a GPU, and there is none here"


@dataclass(frozen=True)
class Row:
    """`first` against `second`, as `what` names them, in `unit`; `met`: whether the goal was, None without one. A row
    that was skipped has no numbers, and its note says why."""

    what: str
    ratio: float | None = None
    first: float | None = None
    second: float | None = None
    unit: str = "s"
    goal: str = ""
    met: bool | None = None
    note: str = ""


class Table:
    """One benchmark's rows and the circumstances in which they were measured."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name, self.options = name, options
        self.rows: list[Row] = []
        self._began, self._load = time.perf_counter(), _load()

    def ratio(
        self,
        what: str,
        first: float,
        second: float,
        unit: str = "s",
        most: float | None = None,
        least: float | None = None,
        note: str = "",
    ) -> None:
        """Adds first / second; `most` and `least` are the goal."""
        ratio = first / second
        bounds = (("at most", most), ("at least", least))
        goal = " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)
        met = (most is None or ratio <= most) and (least is None or ratio >= least) if goal else None
        self.rows.append(Row(what, ratio, first, second, unit, goal, met, note))

    def skip(self, what: str, why: str = NO_GPU) -> None:
        """Adds a row that could not be measured here."""
        self.rows.append(Row(what, note=f"skipped: {why}"))

    def about(self) -> dict[str, object]:
        """The run: machine, versions, settings."""
        return {
            "benchmark": self.name,
            "machine": machine(),
            "load at the start": self._load,
            "repeats": self.options.repeats,
            "quick": self.options.quick,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "minutes": round((time.perf_counter() - self._began) / 60, 1),
        }

    def markdown(self) -> str:
        """The table with its machine line."""
        about = self.about()
        lines = [
            f"### {self.name}",
            "",
            "| first / second | ratio | first | second | goal | |",
            "| --- | ---: | ---: | ---: | --- | --- |",
            *(_line(row) for row in self.rows),
            "",
            f"{about['machine']}; medians of {about['repeats']}, measured side by side; load before: {self._load}.",
        ]
        if self.options.quick:
            lines += ["", "Quick sizes: this shows that the benchmark runs, its numbers say nothing."]
        return "\n".join(lines) + "\n"

    def finish(self) -> None:
        """Writes the JSON and the Markdown and prints the latter. Missed goals end a run that is not quick with 1."""
        folder = self.options.output
        folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps({**self.about(), "rows": [asdict(row) for row in self.rows]}, indent=1)
        (folder / f"bench_{self.name}.json").write_text(content + "\n", encoding="utf-8")
        (folder / f"bench_{self.name}.md").write_text(self.markdown(), encoding="utf-8")
        print(self.markdown())
        missed = [row.what for row in self.rows if row.met is False]
        if missed and not self.options.quick:
            sys.exit(f"Missed: {'; '.join(missed)}")


def parser(doc: str, repeats: int = 5) -> argparse.ArgumentParser:
    """The arguments that every benchmark has."""
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("--output", type=Path, default=ROOT / "runs" / "bench", metavar="DIR", help="default: runs/bench")
    made.add_argument("--repeats", type=int, default=repeats, help="of every measurement, of which the median counts")
    made.add_argument("--quick", action="store_true", help="small sizes, once: only to see that it runs")
    return made


def parse(made: argparse.ArgumentParser, arguments: list[str] | None = None) -> argparse.Namespace:
    """The arguments; a quick run measures once."""
    options = made.parse_args(arguments)
    if options.quick:
        options.repeats = 1
    return options


def side_by_side(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each work after one warm-up. In every round each is run once, in turn forwards and backwards,
    so that a machine that slows down slows all of them."""
    took: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for turn in range(repeats):
        for name in list(works)[:: -1 if turn % 2 else 1]:
            took[name].append(seconds(works[name]))
    return {name: statistics.median(some) for name, some in took.items()}


def seconds(work: Callable[[], object]) -> float:
    """The time of one run, to its end on a GPU."""
    settle()
    start = time.perf_counter()
    work()
    settle()
    return time.perf_counter() - start


def settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def highest_memory() -> int:
    """Bytes of this process's highest resident set."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device() -> str:
    """Where to run: the GPU when there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def machine() -> str:
    """The machine in one line."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{_processor()}, {torch.get_num_threads()} threads, {gpu}, torch {torch.__version__}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _load() -> str:
    """How busy the machine was in the last minute, of as many cores."""
    busy = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return f"{busy} of {os.cpu_count()} cores"


def _line(row: Row) -> str:
    if row.ratio is None:
        return f"| {row.what} | | | | | {row.note} |"
    unit = f" {row.unit}" if row.unit else ""
    verdict = {True: "met", False: "**missed**", None: ""}[row.met]
    told = "; ".join(filter(None, (verdict, row.note)))
    return f"| {row.what} | {row.ratio:.3g} | {row.first:.4g}{unit} | {row.second:.4g}{unit} | {row.goal} | {told} |"
