"""Which steps, time shift, guidance and number format? A checkpoint's validation edits and prompts, judged for every
setting.

    python -m train study-sampling stickers-256 --steps 4 6 12 --shifts 2 8 30 --guidance 1 2
    python -m train study-sampling stickers-256 --steps 6 --shifts 8 --dtypes float32 bfloat16

Writes sampling-study.json, sampling-study.md (the best setting of each number of steps, then all) and
sampling-curve.png as each setting is measured; those that are there, of the same checkpoint and cases, are skipped. The
scenes are apart from training's and from those that the README's tables are measured on: defaults are chosen here.
"""

import argparse
import copy
import hashlib
import itertools
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image

from rpiae import RPiAEPipeline
from rpiae.loading import cast, resolve
from rpiae.pipeline import make_scheduler
from rpiae.recipe import folder_sha256

from ..config import load_config
from ..data.scenes import CATEGORIES, draw, sample_edit
from ..runtime import device, set_up
from ..states import write_whole
from .claims import judge_claims
from .judge import judge_scene
from .measure import batches, seeded, tensor_of
from .panel import judge_all
from .prompts import SKILLS, sample_prompts

TAG = 90
PROMPT_SEED = 1_000  # the tables' prompts are those of small seeds
DTYPES = ("float32", "bfloat16")
RESULTS = "sampling-study.json"
CAVEAT = (
    "The best setting of each number of steps is chosen on the very cases that it is shown on: of settings that differ "
    "by chance alone, it is the luckiest."
)


@dataclass(frozen=True)
class Setting:
    """How a checkpoint draws; `dtype` is the transformer's, as `rpiae.precision` chooses one for the studio."""

    steps: int
    time_shift: float
    guidance_scale: float
    image_guidance_scale: float = 1.0
    dtype: str = "float32"


@dataclass(frozen=True)
class Row:
    """What came of a setting: shares that the judge accepts, the error of the pixels that an edit changes (root mean
    square, of a range of 1), and the seconds of an edit in a batch. `basis`: checksum of the checkpoint and of how many
    cases there were."""

    setting: Setting
    edits: float
    prompts: float
    changed_error: float
    seconds: float
    basis: str = ""


def study(pipe: RPiAEPipeline, settings: Iterable[Setting], edits: int, prompts: int) -> Iterator[Row]:
    """A row for each setting as it is measured, on `edits` per category and `prompts` per skill."""
    rng = np.random.default_rng([0, TAG])
    cases = [sample_edit(rng, category) for category in CATEGORIES for _ in range(edits)]
    texts = [prompt for skill in SKILLS for prompt in sample_prompts(skill, prompts, PROMPT_SEED)]
    sources, targets = (tensor_of([draw(getattr(case, which)) for case in cases]) for which in ("source", "target"))
    changed = (sources != targets).any(1)
    transformer = pipe.transformer
    for setting in settings:
        drawing = cast(copy.deepcopy(transformer), getattr(torch, setting.dtype))
        pipe.register_modules(scheduler=make_scheduler(setting.time_shift), transformer=drawing)
        scales = {"num_inference_steps": setting.steps, "guidance_scale": setting.guidance_scale}
        results, drawn, start = [], [], time.perf_counter()
        for some in batches(cases):
            results += pipe(
                [case.instruction for case in some],
                image=[Image.fromarray(draw(case.source)) for case in some],
                image_guidance_scale=setting.image_guidance_scale,
                generator=seeded(TAG, len(results), len(some)), **scales,
            ).images  # fmt: skip
        seconds = time.perf_counter() - start
        for some in batches(texts):
            drawn += pipe([one.text for one in some], generator=seeded(TAG, len(drawn), len(some)), **scales).images
        results, drawn = ([np.asarray(picture) for picture in pictures] for pictures in (results, drawn))
        error = (tensor_of(results) - targets).square().mean(1)[changed].mean().sqrt()
        accepted = judge_all(judge_scene, results, [case.target for case in cases])
        right = judge_all(judge_claims, drawn, [one.claims for one in texts])
        shares = [float(np.mean([verdict.ok for verdict in verdicts])) for verdicts in (accepted, right)]
        yield Row(setting, *shares, error.item(), seconds / len(cases))


def markdown(rows: list[Row]) -> str:
    lines = [
        "| steps | shift | guidance | image guidance | format | edits right | prompts right | error where changed "
        "| s an edit |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        of = row.setting
        lines.append(
            f"| {of.steps} | {of.time_shift:g} | {of.guidance_scale:g} | {of.image_guidance_scale:g} | {of.dtype} "
            f"| {100 * row.edits:.1f} % | {100 * row.prompts:.1f} % | {row.changed_error:.4f} | {row.seconds:.2f} |"
        )
    return "\n".join(lines)


def best_of_each(rows: list[Row]) -> list[Row]:
    """For each number of steps its best setting: most edits right, then most prompts, then the smallest error."""
    best: dict[int, Row] = {}
    for row in sorted(rows, key=lambda row: (row.edits, row.prompts, -row.changed_error)):
        best[row.setting.steps] = row
    return [best[steps] for steps in sorted(best)]


def curve(rows: list[Row]) -> Figure:
    """Shares of edits and prompts that are right against the number of steps: the best of each, and every setting."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    panels, best = figure.subplots(1, 2), best_of_each(rows)
    lines: dict[str, list[Row]] = {"the best setting of each number of steps": best}
    for row in sorted(rows, key=lambda row: row.setting.steps):
        of = row.setting
        scales = f"guidance {of.guidance_scale:g}, image guidance {of.image_guidance_scale:g}"
        lines.setdefault(f"shift {of.time_shift:g}, {scales}, {of.dtype}", []).append(row)
    for panel, name in zip(panels, ("edits", "prompts"), strict=True):
        for label, some in reversed(lines.items()):  # the first one on top
            shares, width = [getattr(row, name) for row in some], 3 if some is best else 1
            panel.plot([row.setting.steps for row in some], shares, marker="o", linewidth=width, label=label)
        panel.set(title=f"{name} right", xlabel="steps", xticks=[row.setting.steps for row in best])
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    figure.supxlabel(CAVEAT, fontsize="small")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", reverse=True)
    return figure


def read(folder: Path, basis: str) -> list[Row]:
    """The rows that an earlier run wrote, of this basis."""
    file = folder / RESULTS
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    rows = [Row(**one | {"setting": Setting(**one["setting"])}) for one in found]
    return [row for row in rows if row.basis == basis]


def write(rows: list[Row], folder: Path) -> None:
    """The study's files."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / RESULTS, json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    parts = ("The best setting of each number of steps:", markdown(best_of_each(rows)), CAVEAT, "All:", markdown(rows))
    write_whole(folder / "sampling-study.md", "\n\n".join(parts) + "\n")
    curve(rows).savefig(folder / "sampling-curve.png", dpi=110)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m train study-sampling", description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("settings", nargs="*", help="overrides of the config")
    parser.add_argument("--checkpoint", type=Path, help="folder to measure; the config's own when left out")
    parser.add_argument("--steps", type=int, nargs="+", default=[6, 12])
    parser.add_argument("--shifts", type=float, nargs="+", default=[2.0, 8.0])
    parser.add_argument("--guidance", type=float, nargs="+", default=[2.0])
    parser.add_argument("--image-guidance", type=float, nargs="+", default=[1.0])
    parser.add_argument("--dtypes", choices=DTYPES, nargs="+", default=["float32"], help="of the transformer")
    parser.add_argument("--edits", type=int, default=3, help="per category")
    parser.add_argument("--prompts", type=int, default=4, help="per skill")
    options = parser.parse_intermixed_args(arguments)
    config = load_config(options.config, options.settings)
    set_up(config)
    folder = resolve(options.checkpoint or config.checkpoint)
    basis = hashlib.sha256(f"{folder_sha256(folder)} {options.edits} {options.prompts}".encode()).hexdigest()
    grid = itertools.product(options.steps, options.shifts, options.guidance, options.image_guidance, options.dtypes)
    rows = read(config.output, basis)
    there = {row.setting for row in rows}
    missing = [setting for setting in dict.fromkeys(itertools.starmap(Setting, grid)) if setting not in there]
    pipe = RPiAEPipeline.from_pretrained(folder).to(device())
    pipe.set_progress_bar_config(disable=True)
    with torch.inference_mode():
        for row in study(pipe, missing, options.edits, options.prompts):
            rows.append(replace(row, basis=basis))
            write(rows, config.output)
            print(markdown(rows[-1:]).splitlines()[-1], flush=True)
    print(markdown(rows))
