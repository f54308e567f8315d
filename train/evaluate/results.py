"""Rows of tables as JSON files. A file's place is looked at before hours of measuring, and what is in it stays."""

import json
import os
from pathlib import Path

from ..states import write_whole


def make_room(file: Path) -> None:
    """See to it that a file can be written; ValueError where it cannot."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"the folder of {str(file)!r} cannot be made ({error.strerror})") from error
    if file.is_dir():
        raise ValueError(f"{str(file)!r} is a folder, wanted is a file to write")
    if not os.access(file.parent, os.W_OK):
        raise ValueError(f"{str(file)!r} cannot be written: its folder is not yours to write in")


def read(file: Path) -> list[dict]:
    """The rows of a file; none where there is no file. ValueError when it holds anything else."""
    if not file.is_file():
        return []
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{str(file)!r} cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, json.JSONDecodeError):
        found = None
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise ValueError(f"{str(file)!r} is there and holds no rows of a table: remove it, or name another file")
    return found


def renewed(rows: list[dict], newer: list[dict], question: tuple[str, ...]) -> list[dict]:
    """The rows, but for those that a newer one answers again: they are alike in all columns of `question`."""
    answered = [[row.get(name) for name in question] for row in newer]
    return [row for row in rows if [row.get(name) for name in question] not in answered] + newer


def write(file: Path, content: list | dict) -> None:
    """Rows, or a single one; ValueError where the file cannot be written after all."""
    try:
        write_whole(file, json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise ValueError(f"{str(file)!r} was not written ({error.strerror})") from error
