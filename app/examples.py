"""The shipped examples: a picture, an instruction, and the result that the bundled checkpoint gave."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

log = logging.getLogger(__name__)

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "examples"


@dataclass(frozen=True)
class Example:
    """`image`: the file to edit; `result`: the finished edit, None when there is none."""

    image: Path
    instruction: str
    result: Path | None
    size: tuple[int, int]


def read_examples(folder: Path = FOLDER) -> list[Example]:
    """What `examples.json` in `folder` lists, in its order; what is missing or broken is left out and logged."""
    try:
        entries = json.loads((folder / "examples.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as fault:
        log.warning("examples.json cannot be read: %s", fault)
        return []
    examples = []
    for entry in entries if isinstance(entries, list) else ():
        try:
            examples.append(_read(folder, entry))
        except (OSError, KeyError, TypeError) as fault:
            log.warning("example %r is left out: %s", entry, fault)
    return examples


def _read(folder: Path, entry: dict[str, str]) -> Example:
    image = folder / Path(entry["image"]).name
    with Image.open(image) as picture:
        size = picture.size
    result = folder / Path(entry["result"]).name if entry.get("result") else None
    return Example(image, entry["instruction"], result if result and result.is_file() else None, size)
