"""One row of somebody's data: which columns hold its pictures and its words, and what can be wrong with it.

People name columns differently; `find_columns` knows the names of the data sets that are in use (OmniEdit, NHR-Edit,
InstructPix2Pix, UltraEdit, MagicBrush, CC12M, ...) and takes any other name by setting.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rpiae import images

# What a column is for → its usual names, the first that is there counts; of captions and instructions all count.
NAMES = {
    "image": ("image", "file_name", "image_path", "picture"),
    "caption": (
        "caption", "text", "txt", "captions", "caption_llava", "caption_llava_short", "prompt",
        "caption1", "caption2", "caption3", "caption4", "caption5",
    ),
    "source": ("source", "source_image", "src_img", "source_img", "input_image", "original_image", "input_images"),
    "target": ("target", "target_image", "edited_image", "edited_img", "target_img", "output_image", "output_images"),
    "instruction": ("instruction", "edit_instruction", "edit_prompt", "edited_prompt_list", "instructions", "prompt"),
    "id": ("id", "key", "omni_edit_id", "img_id"),
}  # fmt: skip
# MagicBrush edits a picture several times: its img_id alone names no row.
TURN = "turn_index"
# Kind of data → the columns of its pictures and of its words.
KINDS: dict[str, tuple[tuple[str, ...], str | None]] = {
    "edits": (("source", "target"), "instruction"),
    "captions": (("image",), "caption"),
    "pictures": (("image",), None),
}

# What a setting may say of a column: its name, several, or several with how often each is taken.
Choice = str | tuple[str, ...] | dict[str, float]


class Fault(ValueError):
    """A row that cannot be used: `problem` in two or three words, to count by, and the rest as the message."""

    def __init__(self, problem: str, message: str):
        super().__init__(message)
        self.problem = problem


@dataclass(frozen=True)
class Columns:
    """Where a row's parts are: "pictures" have one picture, "captions" a picture and words, "edits" source, target and
    words; `ids`: what names a row, together."""

    kind: str
    pictures: tuple[str, ...]
    texts: dict[str, float]
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """`pictures`: paths or a file's bytes; `texts`: words and how often each of them is taken; `label`: its class,
    None for a row without one."""

    id: str
    pictures: tuple[Path | bytes, ...]
    texts: tuple[tuple[str, float], ...] = ()
    label: int | None = None

    def open(self) -> list[Image.Image]:
        """The pictures, upright 8-bit RGB; a `Fault` for one that is missing or broken."""
        opened = []
        for picture in self.pictures:
            if isinstance(picture, Path) and not picture.is_file():
                raise Fault("missing file", f"{self.id}: there is no file {picture.name!r}")
            try:
                opened.append(images.load(picture))
            except ValueError as error:
                raise Fault("broken picture", f"{self.id}: {error}") from error
        return opened

    def text(self, rng: np.random.Generator) -> str:
        """One of the texts; a `Fault` when there is none."""
        if not self.texts:
            raise Fault("no text", f"{self.id}: its caption or instruction is empty")
        weights = np.array([weight for _, weight in self.texts])
        return self.texts[rng.choice(len(weights), p=weights / weights.sum())][0]


def find_columns(names: list[str], given: Mapping[str, Choice], where: str) -> Columns:
    """The columns of a table with these column names; `given` overrules what the names suggest.

    Raises ValueError, with the names that are there, when it is no known kind of data.
    """
    if unknown := given.keys() - NAMES.keys():
        raise ValueError(f"{where}: columns are {', '.join(NAMES)}, not {', '.join(sorted(unknown))}")
    found: dict[str, dict[str, float]] = {}
    for role, usual in NAMES.items():
        if role in given:
            chosen = _weighted(given[role])
            if missing := [name for name in chosen if name not in names]:
                raise ValueError(f"{where}: there is no column {', '.join(missing)}; there are: {', '.join(names)}")
            found[role] = chosen
        elif there := [name for name in usual if name in names]:
            found[role] = dict.fromkeys(there, 1.0)
    for kind, (pictures, words) in KINDS.items():
        if all(role in found for role in pictures) and (words is None or words in found):
            columns = tuple(next(iter(found[role])) for role in pictures)
            texts = {name: weight for name, weight in found[words].items() if weight > 0} if words else {}
            ids = tuple(found.get("id", {}))
            if "id" not in given:
                ids = (*ids[:1], *([TURN] if ids and TURN in names else []))
            return Columns(kind, columns, texts, ids)
    raise ValueError(
        f"{where}: its columns are {', '.join(names) or 'none'}; wanted are image and caption, or source, instruction "
        "and target (other names: columns={image: ..., caption: ...})"
    )


def _weighted(choice: Choice) -> dict[str, float]:
    if isinstance(choice, Mapping):
        return dict(choice)
    return dict.fromkeys([choice] if isinstance(choice, str) else choice, 1.0)


def id_of(values: Mapping[str, Any], columns: Columns) -> str | None:
    """What a row is called; None when it has no name."""
    parts = [values.get(name) for name in columns.ids]
    return None if not parts or None in parts else " ".join(map(str, parts))


def picture_of(values: Mapping[str, Any], columns: Columns) -> str | None:
    """What names the picture that a row is of, as several edits of one share it: where they come in turns the id, each
    turn but the first being of the result of another; else the picture's own name. None when nothing does."""
    chained = [name for name in columns.ids if name != TURN] if TURN in columns.ids else []
    value = values.get((*chained, *columns.pictures)[0])
    return None if value is None else str(value)


def texts_of(values: Mapping[str, Any], columns: Columns) -> tuple[tuple[str, float], ...]:
    """The words of a row that are not empty; a list's entries share their column's weight."""
    texts = []
    for name, weight in columns.texts.items():
        value = values.get(name)
        entries = [value] if isinstance(value, str) else list(value) if isinstance(value, (list, tuple)) else []
        entries = [entry.strip() for entry in entries if isinstance(entry, str) and entry.strip()]
        texts += [(entry, weight / len(entries)) for entry in entries]
    return tuple(texts)
