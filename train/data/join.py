"""Captions that come apart from their pictures: a JSON-lines file with a line for each sample of the shards.

CC12M's LLaVA captions are one file of eleven million lines, its pictures a thousand shards; both have the same keys.
Where each key's line lies is found out once and kept beside the file, so a line is read when its picture is.
"""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from .rows import Fault


class JoinedLines:
    """The fields of a sample by its key.

    Args:
        file: JSON lines, each with a "key"; not compressed, since lines are read out of its middle.
        index: folder for the table of where the lines lie; beside the file when None.

    Attributes:
        notes: as of `FolderSource`.

    Raises:
        ValueError: no file, a compressed one, or one without any line that can be joined.
    """

    def __init__(self, file: Path, index: Path | None = None):
        self.file = Path(file).expanduser()
        if not self.file.is_file():
            raise ValueError(f"there is no file {str(file)!r} to join")
        with open(self.file, "rb") as stream:
            if stream.read(2) == b"\x1f\x8b":
                raise ValueError(
                    f"{self.file.name} is compressed and lines are read out of its middle: gunzip it first"
                )
        table = table_file(self.file, index)
        stat = self.file.stat()
        state = np.array([stat.st_size, stat.st_mtime_ns])
        kept = np.load(table) if table.is_file() else {}
        # Tables without "broken" are older.
        if "broken" in kept and np.array_equal(kept["state"], state):
            self.keys, self.offsets, broken = kept["keys"], kept["offsets"], kept["broken"]
        else:
            self.keys, self.offsets, broken = _scan(self.file)
            save_whole(table, state=state, keys=self.keys, offsets=self.offsets, broken=broken)
        self.notes: list[tuple[str, str]] = []
        if len(broken):
            said = f'are no JSON object with a "key", the first is line {broken[0]}'
            self.notes.append(("broken line", f"{len(broken)} lines of {self.file.name} {said}"))
        self._stream = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_stream": None}

    def fields(self, key: str) -> dict[str, Any]:
        """The line of a sample; a `Fault` when there is none, or it cannot be read."""
        wanted = key.rpartition("/")[2].encode()
        place = int(np.searchsorted(self.keys, wanted))
        if place == len(self.keys) or self.keys[place] != wanted:
            raise Fault("no joined line", f"{self.file.name} has no line with the key {wanted.decode()!r}")
        try:
            if self._stream is None:
                self._stream = open(self.file, "rb")  # noqa: SIM115 (kept open between rows)
            self._stream.seek(int(self.offsets[place]))
            return json.loads(self._stream.readline())
        except OSError as error:
            self._stream = None  # a new one may do
            raise Fault("unreadable file", f"{self.file.name}: {error}") from error


def table_file(file: Path, index: Path | None) -> Path:
    """Where the table of contents of a file is kept: beside it, or in `index`, where its name tells the file's folder,
    since shards of several folders may share their names."""
    if index is None:
        return file.with_name(f"{file.name}.index.npz")
    folder = hashlib.sha256(os.fsencode(file.parent.resolve())).hexdigest()[:12]
    return index / f"{file.name}.{folder}.index.npz"


def save_whole(file: Path, **arrays: np.ndarray) -> None:
    """An .npz that is whole or not there, also when several processes make it at once; ValueError when its folder
    cannot be written to."""
    part = file.with_name(f"{file.name}.{uuid4().hex}.part")  # processes of two machines may have the same number
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as stream:
            np.savez(stream, **arrays)
        part.replace(file)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise ValueError(
            f"{file.name} cannot be written beside the data ({error.strerror}); name another folder for tables of "
            "contents in the source's settings: index: FOLDER"
        ) from error


def _scan(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys in their order, and where the line of each begins (of a key that comes twice, one of its lines); numbers of
    the lines that cannot be used."""
    keys, offsets, broken, offset = [], [], [], 0
    with open(file, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                key = _key(line)
                if key is None:
                    broken.append(number)
                else:
                    keys.append(key)
                    offsets.append(offset)
            offset += len(line)
    if not keys:
        raise ValueError(f'{file.name} has no line that is a JSON object with a "key"')
    sorted_keys, first = np.unique(np.array(keys, "S"), return_index=True)
    return sorted_keys, np.array(offsets, np.int64)[first], np.array(broken, np.int64)


def _key(line: bytes) -> bytes | None:
    try:
        return str(json.loads(line)["key"]).encode()
    except (ValueError, TypeError, KeyError):
        return None
