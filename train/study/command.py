"""`python -m train study NAME`: compact tokenizers after six ideas at equal budget, the same generator on each.

    python -m train study stickers-256                     # without a GPU: its smaller world, stickers-128
    python -m train study stickers-128 --rows rpiae,rae    # some rows
    python -m train study stickers-128 --dry-run           # parameters, FLOPs, minutes
    python -m train study stickers-128 --table             # table and curves of what is finished
    python -m train study stickers-128 --export            # finished tokenizers to assets/tokenizers, for Compare
    python -m train study stickers-128 --export --generators    # with the models that draw on their latents

Rows are done one by one, all with the first seed before any with the second, each written to <results>/rows as it is
finished; what is there is skipped, what was stopped goes on. `--table` of stickers-128 goes into the README too.
"""

import argparse
import logging
import os
from pathlib import Path

import torch

from ..evaluate.command import README, write_between_markers
from ..runtime import process_count
from . import budget, bundle, report
from .config import STAGES, StudySettings, load_study
from .judged import ceiling
from .rows import chosen
from .run import RowRun
from .world import inhabited

logger = logging.getLogger(__name__)
BEGIN, END = "<!-- study:begin -->", "<!-- study:end -->"
IN_README = Path("docs/study/stickers-128")  # whose table the README shows


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m train study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", help="a name in train/study/configs, or a YAML file")
    parser.add_argument("settings", nargs="*", help="overrides, such as tokenizer.samples=1000")
    parser.add_argument("--rows", help="names with commas; all when left out")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="print parameters and cost, then stop")
    what.add_argument("--table", action="store_true", help="only write table and curves of what is finished")
    what.add_argument("--export", action="store_true", help="only write finished tokenizers to assets/tokenizers")
    parser.add_argument("--generators", action="store_true", help="with --export: their generators too")
    options = parser.parse_intermixed_args(arguments)
    if options.generators and not options.export:
        parser.error("--generators goes with --export")
    if options.table and options.rows:
        parser.error("--table is of all finished rows: leave out --rows")
    names = chosen(options.rows)
    study = load_study(options.study, options.settings)
    if options.dry_run:
        print(budget.describe(study, names))
    elif options.table:
        print(text := report.write(study.results))
        if study.results == IN_README and README.is_file():
            write_between_markers(README, text, BEGIN, END)
    elif options.export:
        for folder in bundle.export(study, names, generators=options.generators):
            print(folder)
    else:
        print(run(trainable(study, options.settings), names))


def trainable(study: StudySettings, settings: list[str]) -> StudySettings:
    """The study or, on a machine without a GPU, the one that it names for that, with the same overrides."""
    if study.on_cpu is None or torch.cuda.is_available():
        return study
    print(f"No GPU here: {study.on_cpu}, the smaller world, in place of {study.name}.")
    return load_study(study.on_cpu, settings)


def run(study: StudySettings, names: list[str]) -> str:
    """All of these rows with every seed; returns the table."""
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("train").setLevel(logging.INFO)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if study.threads:
        torch.set_num_threads(study.threads)
    _check(study)
    for name, finished in report.read_rows(study.results).items():
        for one in finished:
            RowRun(study, name, one["seed"]).finished()  # a mix is told before the next row is trained
    with inhabited(study.world):
        share = None
        if study.generator:
            share = ceiling(study.world, study.measure.ceiling)
            logger.info("the judge accepts %.0f %% of true pictures at %d px", 100 * share, study.world.side)
        for seed in study.seeds:
            for name in names:
                RowRun(study, name, seed).run(share)
                text = report.write(study.results)
    return text


def _check(study: StudySettings) -> None:
    """What all rows must have in common, and the study cannot do."""
    if process_count() > 1:
        raise ValueError("the study runs in one process: start it without accelerate launch, or rows apart by --rows")
    stages = {name: stage for name in STAGES if (stage := getattr(study, name))}
    for name, stage in stages.items():
        if (parts := stage.accumulate) != 1:
            raise ValueError(f"{name}.accumulate is {parts}; the study computes every batch whole: leave it at 1")
    for name in ("data", "common_nouns", "common_share", "common_words", "scene_sampling", "edit_weights"):
        if value := getattr(study.generator, name, None):
            raise ValueError(f"generator.{name} is {value!r}; which scenes there are is said by world: leave it out")
