"""`python -m train evaluate NAME`: calibrate keep unchanged pixels, measure a checkpoint, write its tables.

The tables go to <checkpoint>/tables.json and tables.md, into the checkpoint's model card and, for the bundled
checkpoint, into the README between its markers.
"""

import argparse
import logging
from pathlib import Path

from rpiae import RPiAEPipeline
from rpiae.tokenizers.rpiae import BUNDLED

from ..card import model_card
from ..config import DiffusionStage, load_config
from ..publish import read_legs
from ..runtime import device, set_up
from ..states import write_whole
from . import calibrate, report

logger = logging.getLogger(__name__)
BEGIN, END = "<!-- tables:begin -->", "<!-- tables:end -->"
README = Path("README.md")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m train evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("settings", nargs="*", help="overrides of the config")
    parser.add_argument("--checkpoint", type=Path, help="folder to measure; the config's own when left out")
    parser.add_argument("--pictures", type=int, default=20, help="held-out cases per skill and category")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-calibration", action="store_true", help="leave the thresholds of keep unchanged pixels")
    options = parser.parse_intermixed_args(arguments)
    config = load_config(options.config, options.settings)
    set_up(config)
    folder = options.checkpoint or config.checkpoint
    pipe = RPiAEPipeline.from_pretrained(folder).to(device())
    pipe.set_progress_bar_config(disable=True)
    if not options.no_calibration:
        best, _ = calibrate.calibrate(pipe, seed=options.seed)
        logger.info("keep unchanged pixels: keeps %.3f, covers %.3f with %s", best.kept, best.covered, best.settings)
        pipe.register_to_config(region=best.settings.to_dict())
    drawing = [stage for stage in config.stages.values() if isinstance(stage, DiffusionStage)]
    common = {"common": drawing[0].common_nouns, "common_words": drawing[0].common_words} if drawing else {}
    tables = report.run(pipe, folder, n=options.pictures, seed=options.seed, **common)
    text = report.markdown(tables)
    if not options.no_calibration:  # only now: the folder's tables are of its thresholds, also when this is cut short
        calibrate.store(folder, best.settings)
    write_whole(folder / "README.md", model_card(config, folder, read_legs(folder), text))
    if folder.resolve() == BUNDLED and README.is_file():
        write_between_markers(README, text)
    print(text)


def write_between_markers(file: Path, text: str, begin: str = BEGIN, end: str = END) -> None:
    """Replace what stands between the markers of a Markdown file; ValueError when they are not there."""
    content = file.read_text(encoding="utf-8")
    before, begins, rest = content.partition(begin)
    _, ends, after = rest.partition(end)
    if not begins or not ends:
        raise ValueError(f"{file} has no {begin} ... {end} to write the tables into")
    write_whole(file, f"{before}{begin}\n{text.strip()}\n{end}{after}")


