"""Pictures painted into a folder, in any number of runs and processes, and what decides them.

A run that was stopped goes on where it was: files that are there stay. `<folder>.export.json` beside the folder says
what decides the pictures, and a run that differs from it is refused. A picture's noise follows from the seed, the
prompt's name in its benchmark and the picture's number, so batches and processes change nothing but rounding. Files
appear whole: parts are written beside the folder too, because scorers take all that is inside.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import torch
from PIL import Image
from tqdm import tqdm

from rpiae.loading import read_json

from ..states import write_whole


@dataclass(frozen=True)
class Item:
    """One file to make: a picture, or with several a grid of them, two in a row."""

    file: Path
    key: str  # the prompt's name in its benchmark
    prompt: str | int  # or a class label
    numbers: tuple[int, ...]  # of the pictures of this prompt that the file shows
    source: Callable[[], Image.Image] | None = None  # the picture to edit; GEdit-Bench wants it beside the edited one
    line: str = ""  # what GenEval wants beside the pictures


Paint = Callable[[list, list[torch.Generator], list[Image.Image] | None], list[Image.Image]]


def claim(folder: Path, identity: dict) -> None:
    """Say beside a folder what decides its pictures, unless there are some already."""
    if not beside(folder, ".npz").is_file() and next(folder.rglob("*.png"), None) is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_whole(beside(folder, ".export.json"), json.dumps(identity, indent=1) + "\n")


def check(folder: Path, identity: dict) -> None:
    """ValueError when the pictures of a folder are of another export."""
    file = beside(folder, ".export.json")
    advice = "remove the folder (and the .npz of that name), or name another"
    if not file.is_file():
        raise ValueError(f"{folder} holds pictures, and no {file.name} beside it says what made them: {advice}")
    theirs = read_json(file, "an export")
    if other := sorted(key for key in theirs.keys() | identity.keys() if theirs.get(key) != identity.get(key)):
        raise ValueError(f"{folder} holds pictures of another export (not the same: {', '.join(other)}): {advice}")


def paint_all(items: Sequence[Item], paint: Paint, out: Path, seed: int = 0, batch: int = 8, shown: bool = True) -> int:
    """Make the files that are not there yet; how many that were."""
    for item in items:
        _lay_beside(item, out)
    waiting = [item for item in items if not item.file.is_file()]
    done: dict[Path, list[Image.Image]] = {item.file: [] for item in waiting}
    jobs = [(item, number) for item in waiting for number in item.numbers]
    with tqdm(total=len(jobs), unit="picture", disable=not shown) as bar:
        for part in (jobs[start : start + batch] for start in range(0, len(jobs), batch)):
            generators = [torch.Generator().manual_seed(picture_seed(seed, item.key, number)) for item, number in part]
            sources = [item.source() for item, _ in part] if part[0][0].source else None
            pictures = paint([item.prompt for item, _ in part], generators, sources)
            for (item, _), picture in zip(part, pictures, strict=True):
                done[item.file].append(picture)
                if len(done[item.file]) == len(item.numbers):
                    _save(grid(done.pop(item.file)), item.file, out)
            bar.update(len(part))
    return len(waiting)


def picture_seed(seed: int, key: str, number: int) -> int:
    """Of one picture of one prompt, whatever else is made."""
    digest = hashlib.sha256(f"{seed}/{key}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def grid(pictures: list[Image.Image]) -> Image.Image:
    """Pictures of one size, two in a row; one alone as it is."""
    if len(pictures) == 1:
        return pictures[0]
    width, height = pictures[0].size
    sheet = Image.new("RGB", (2 * width, -(-len(pictures) // 2) * height))
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % 2 * width, index // 2 * height))
    return sheet


def tidy(out: Path) -> None:
    """Remove what stopped runs left half-written."""
    shutil.rmtree(_parts(out), ignore_errors=True)


def beside(folder: Path, ending: str) -> Path:
    return folder.with_name(folder.name + ending)


def _lay_beside(item: Item, out: Path) -> None:
    """What a scorer wants to find with a picture."""
    metadata, source = item.file.parents[1] / "metadata.jsonl", item.file.with_name(f"{item.file.stem}_SRCIMG.png")
    if item.line and not metadata.is_file():
        _place(metadata, lambda part: part.write_text(item.line + "\n", encoding="utf-8"), out)
    if item.source and not source.is_file():
        _save(item.source(), source, out)


def _save(picture: Image.Image, file: Path, out: Path) -> None:
    _place(file, lambda part: picture.save(part, format="PNG"), out)


def _place(file: Path, write: Callable[[Path], object], out: Path) -> None:
    """Have a file written in a folder beside `out`, which scorers don't look at, and put it where it belongs."""
    part = _parts(out) / f"{uuid4().hex}-{file.name}"  # machines with one disk may number their processes alike
    for folder in (part.parent, file.parent):
        folder.mkdir(parents=True, exist_ok=True)
    write(part)
    os.replace(part, file)


def _parts(out: Path) -> Path:
    return out.with_name(f".{out.name}.part")
