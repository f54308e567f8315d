"""The app's example pictures and the README's picture of edits, made by a checkpoint.

    python -m train examples stickers-256

Of many candidates those are taken that the judge accepts and that come nearest to the picture that was asked for, of as
many categories as can be. So they show what the checkpoint can do, not how often: that is what the tables are for.
"""

import argparse
import json
import shutil
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from rpiae import RPiAEPipeline, images
from rpiae.metrics import psnr
from rpiae.recipe import Recipe, describe_pipeline, pixels_sha256, save_png

from ..config import load_config
from ..data.scenes import CATEGORIES, Edit, draw, sample_edit
from ..runtime import device, set_up
from ..states import RUBBISH
from .judge import judge_scene

TAG = 70
INDEX = "examples.json"
COUNT, TRIES = 6, 24
CLEAN = 15.0  # dB to what was asked for, where it changes: the judge also accepts what is right and ugly
BATCH = 6
SIDE, GAP, TEXT_HEIGHT = 176, 8, 44


@dataclass(frozen=True)
class Candidate:
    edit: Edit
    seed: int
    source: Image.Image
    psnr: float


@dataclass(frozen=True)
class Example:
    edit: Edit
    seed: int
    source: Image.Image
    result: Image.Image
    mask: Image.Image


def make(pipe: RPiAEPipeline, count: int = COUNT) -> list[Example]:
    """Up to `count` examples: the best of every category first, then the second best, and so on."""
    ranked = []
    for number, category in enumerate(CATEGORIES):
        found = sorted(_accepted(pipe, category, number), key=lambda candidate: -candidate.psnr)
        ranked += [(rank, candidate) for rank, candidate in enumerate(found)]
    ranked.sort(key=lambda pair: (pair[0], -pair[1].psnr))
    return [_alone(pipe, candidate) for _, candidate in ranked[:count]]


def _accepted(pipe: RPiAEPipeline, category: str, number: int) -> list[Candidate]:
    rng = np.random.default_rng([TAG, number])
    found = []
    for start in range(0, TRIES, BATCH):
        edits = [sample_edit(rng, category) for _ in range(BATCH)]
        seeds = list(range(start, start + BATCH))
        sources = [images.load(draw(edit.source)) for edit in edits]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        out = pipe([edit.instruction for edit in edits], image=sources, generator=generators)
        for edit, seed, source, image in zip(edits, seeds, sources, out.images, strict=True):
            result = np.asarray(image)
            near = psnr_of_change(np.asarray(source), result, draw(edit.target))
            if near >= CLEAN and judge_scene(result, edit.target).ok:
                found.append(Candidate(edit, seed, source, near))
    return found


def psnr_of_change(source: np.ndarray, result: np.ndarray, target: np.ndarray) -> float:
    """PSNR in dB of uint8 pictures (H, W, 3) over the pixels that change, or should: what stays would hide the rest."""
    changed = ((result != source) | (target != source)).any(-1)
    return float(psnr(*(torch.from_numpy(one[changed].T[None, ..., None]).float() / 255 for one in (result, target))))


def _alone(pipe: RPiAEPipeline, candidate: Candidate) -> Example:
    """The same edit outside its batch, as a person would run it: equal but for rounding."""
    edit, seed, source = candidate.edit, candidate.seed, candidate.source
    out = pipe(edit.instruction, image=source, generator=torch.Generator().manual_seed(seed))
    return Example(edit, seed, source, out.images[0], out.change_masks[0])


def write(pipe: RPiAEPipeline, checkpoint: Path, folder: Path, sheet: Path) -> int:
    """Write the examples with their recipes and examples.json in place of those before, and the README's sheet; returns
    how many. ValueError, and everything stays, when the folder holds other things, or no edit is good enough."""
    if folder.exists() and not (folder / INDEX).is_file():
        raise ValueError(f"{folder} holds no examples, which would take its place; choose another --folder")
    found = make(pipe)
    if not found:
        raise ValueError(f"the judge accepts none of {checkpoint}'s edits that comes near enough; {folder} stays")
    part = folder.with_name(folder.name + RUBBISH)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    entries = []
    for example in found:
        name = f"{len(entries) + 1}-{example.edit.category}"
        example.source.save(part / f"{name}.png", optimize=True)
        save_png(example.result, part / f"{name}-edited.png", _recipe(pipe, checkpoint, example))
        entries.append(
            {"image": f"{name}.png", "instruction": example.edit.instruction, "result": f"{name}-edited.png"}
        )
    (part / INDEX).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    sheet.parent.mkdir(parents=True, exist_ok=True)
    draw_sheet(found).save(sheet, optimize=True)
    return len(found)


def _recipe(pipe: RPiAEPipeline, checkpoint: Path, example: Example) -> Recipe:
    return Recipe(
        kind="edit", prompt=example.edit.instruction, seed=example.seed, preserve_unchanged=True,
        width=example.result.width, height=example.result.height, source_sha256=pixels_sha256(example.source),
        **pipe.config.defaults, **describe_pipeline(pipe, checkpoint),
    )  # fmt: skip


def draw_sheet(examples: list[Example]) -> Image.Image:
    """Columns of instruction, before, after, and where it changed."""
    width = len(examples) * (SIDE + GAP) - GAP
    sheet = Image.new("RGB", (width, TEXT_HEIGHT + 3 * (SIDE + GAP) - GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column, example in enumerate(examples):
        x = column * (SIDE + GAP)
        pen.multiline_text((x + 2, 2), textwrap.fill(example.edit.instruction, 26), "black", font)
        for row, picture in enumerate((example.source, example.result, example.mask.convert("RGB"))):
            small = picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            sheet.paste(small, (x, TEXT_HEIGHT + row * (SIDE + GAP)))
    return sheet


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m train examples", description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("--checkpoint", type=Path, help="the config's own when left out")
    parser.add_argument("--folder", type=Path, default=Path("assets/examples"))
    parser.add_argument("--sheet", type=Path, default=Path("assets/readme/edits.png"))
    options = parser.parse_args(arguments)
    config = load_config(options.config)
    set_up(config)
    folder = options.checkpoint or config.checkpoint
    pipe = RPiAEPipeline.from_pretrained(folder).to(device())
    pipe.set_progress_bar_config(disable=True)
    count = write(pipe, folder, options.folder, options.sheet)
    print(f"{count} examples in {options.folder}")
