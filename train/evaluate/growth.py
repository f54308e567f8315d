"""How a checkpoint grew: what it could do after so many scenes, and where that leads.

    python -m train growth stickers-256

adds what the checkpoint's own tables say to docs/growth/stickers-256.json, one point for each number of scenes seen,
and writes table and curves beside it.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from pydantic import TypeAdapter

from ..config import DiffusionStage, TrainingConfig, load_config
from ..data.scenes import CATEGORIES
from ..publish import read_legs
from ..settings import Settings
from ..states import write_whole
from .prompts import SKILLS

FOLDER = Path("docs/growth")
# A line is fitted to the last so many points, and followed until this share.
LAST, WANTED = 4, 0.8
MOST = 1e12  # scenes
ROWS = {"editing": len(CATEGORIES), "text": len(SKILLS)}
COLUMNS = {
    "editing": "edits right",
    "editing_common": "edits of common nouns right",
    "text": "pictures from text right",
    "text_common": "pictures of common nouns from text right",
    "paraphrases": "paraphrases right",
    "kept": "untouched pixels kept",
}


class Point(Settings):
    """A checkpoint of a time, judged on held-out scenes."""

    # In all legs of the transformer's training.
    scenes: int
    minutes: int
    # Of each skill and category; shares are means over these, None where it was not measured.
    cases: int
    editing: float
    editing_common: float | None
    text: float
    text_common: float | None
    paraphrases: float
    kept: float


def of_checkpoint(config: TrainingConfig) -> Point:
    """What a checkpoint folder says of itself; ValueError when it was not measured."""
    file, legs = config.checkpoint / "tables.json", read_legs(config.checkpoint)
    if not file.is_file():
        raise ValueError(f"{config.checkpoint} has no tables.json; run: python -m train evaluate {config.name}")
    tables = json.loads(file.read_text(encoding="utf-8"))
    drawing = [name for name, stage in config.stages.items() if isinstance(stage, DiffusionStage)]
    own = [leg for name in drawing for leg in legs.get(name, [])]

    def mean(name: str) -> float | None:
        return float(np.mean([row["share"] for row in tables[name].values()])) if name in tables else None

    return Point(
        scenes=sum(leg["samples"] for leg in own), minutes=round(sum(leg["minutes"] for leg in own)),
        cases=tables["settings"]["n"], editing=mean("editing"), editing_common=mean("editing, common nouns"),
        text=mean("text to image"), text_common=mean("text to image, common nouns"),
        paraphrases=tables["paraphrases"]["share"], kept=tables["preservation"]["kept"],
    )  # fmt: skip


def line(points: Sequence[Point], name: str) -> tuple[float, float] | None:
    """Slope and offset of the log odds of a share against the logarithm of the scenes, by least squares over the last
    points; None when there are not that many. Shares of no or all cases count as half a case from there."""
    known = [point for point in points if getattr(point, name) is not None][-LAST:]
    if len(known) < LAST:
        return None
    odds = []
    for point in known:
        half = 0.5 / (point.cases * ROWS[name.partition("_")[0]])
        share = min(max(getattr(point, name), half), 1 - half)
        odds.append(math.log(share / (1 - share)))
    slope, offset = np.polyfit([math.log(point.scenes) for point in known], odds, 1)
    return float(slope), float(offset)


def scenes_until(fit: tuple[float, float], share: float = WANTED) -> float | None:
    """After how many scenes a fitted line reaches a share; None when it does not rise, or hardly."""
    slope, offset = fit
    distance = math.log(share / (1 - share)) - offset
    return math.exp(distance / slope) if slope > 0 and distance / slope < math.log(MOST) else None


def curves(points: Sequence[Point]) -> Figure:
    """Shares against scenes seen, dotted where a line through the last points leads."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    panels = figure.subplots(1, 2)
    titles = {"editing": "edits right", "text": "pictures from text right"}
    for panel, (name, title) in zip(panels, titles.items(), strict=True):
        for column, label, colour in ((name, "all nouns", "C0"), (f"{name}_common", "common nouns", "C1")):
            _draw(panel, points, column, label, colour)
        panel.set(title=title, xlabel="scenes seen", xscale="log", ylim=(0, 1))
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
        panel.grid(alpha=0.3)
        panel.legend(loc="upper left")
    return figure


def _draw(panel: Axes, points: Sequence[Point], column: str, label: str, colour: str) -> None:
    known = [point for point in points if getattr(point, column) is not None]
    panel.plot([p.scenes for p in known], [getattr(p, column) for p in known], "o-", color=colour, label=label)
    fit = line(points, column)
    if fit is None or (end := scenes_until(fit)) is None:
        return
    x = np.geomspace(known[-LAST].scenes, max(end, known[-1].scenes), 100)
    panel.plot(x, 1 / (1 + np.exp(-(fit[0] * np.log(x) + fit[1]))), ":", color=colour)


def markdown(points: Sequence[Point]) -> str:
    """All points, and what the lines through the last ones say."""
    lines = ["| scenes seen | minutes | " + " | ".join(COLUMNS.values()) + " |", "|---:" * (2 + len(COLUMNS)) + "|"]
    for point in points:
        shares = [getattr(point, name) for name in COLUMNS]
        cells = ["-" if share is None else f"{share:.1%}" for share in shares]
        lines.append(f"| {point.scenes:,} | {point.minutes} | " + " | ".join(cells) + " |")
    parts = ["\n".join(lines)]
    for name, title in COLUMNS.items():
        if name.partition("_")[0] not in ROWS or (fit := line(points, name)) is None:
            continue
        end = scenes_until(fit)
        reached = "hardly rises, or falls" if end is None else f"is at {WANTED:.0%} after {end:.1e} scenes"
        parts.append(f"- {title}: a line through the log odds of the last {LAST} points {reached}.")
    return parts[0] + "\n\n" + "\n".join(parts[1:]) + "\n"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m train growth", description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("settings", nargs="*", help="overrides of the config")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the points, the table and the curves")
    options = parser.parse_intermixed_args(arguments)
    config = load_config(options.config, options.settings)
    file, own = options.folder / f"{config.name}.json", of_checkpoint(config)
    points = TypeAdapter(list[Point]).validate_json(file.read_bytes()) if file.is_file() else []
    points = sorted([p for p in points if p.scenes != own.scenes] + [own], key=lambda point: point.scenes)
    options.folder.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps([point.model_dump() for point in points], indent=1) + "\n")
    write_whole(file.with_suffix(".md"), markdown(points))
    curves(points).savefig(file.with_suffix(".png"), dpi=110)
    print(markdown(points))
