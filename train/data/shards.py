"""Tar shards in the webdataset layout: files of one sample follow each other and share their name up to the first dot.

    000017.jpg  000017.txt  000017.json          a picture; captions in the text and in the fields of the JSON
    000017.source.jpg  000017.target.jpg  000017.json            an edit; the JSON has the instruction

Shards are read in place by offset: a table of contents is made once and kept beside each shard. So a sample has a
number, a run can be resumed anywhere without reading what came before, and no order depends on how many workers read.
The webdataset package reads shards as streams, which cannot do that.
"""

import json
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .folders import ENDINGS
from .join import JoinedLines, save_whole, table_file
from .rows import Choice, Fault, Row, find_columns, id_of, texts_of

TEXT_ENDINGS = ("txt", "text", "caption", "cls")
# Samples whose parts and fields are taken for those of all.
LOOKED_AT = 100


class Contents(NamedTuple):
    """A shard's samples: keys (n,) in UTF-8, and where each part of each lies, offset and size (n, parts); size -1: not
    there."""

    keys: np.ndarray
    parts: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    whole: bool  # False where the shard ends in the middle of a file


class ShardSource:
    """Tar files as chunks of rows; attributes as of `FolderSource`.

    Args:
        path: a folder with *.tar in it, or a pattern.
        index: folder for the tables of contents; beside the shards when None.
        join: a file with more fields for each sample, see `train.data.join`.
    """

    classes: tuple[str, ...] = ()  # a .cls is not read as a class

    def __init__(
        self,
        path: str,
        columns: Mapping[str, Choice] | None = None,
        index: Path | None = None,
        join: Path | None = None,
    ):
        self.files = find_files(path, ".tar")
        self._joined = JoinedLines(join, index) if join is not None else None
        self.notes = [] if self._joined is None else list(self._joined.notes)
        self._contents = [self._read_contents(file, index) for file in self.files]
        self.sizes = np.array([len(contents.keys) for contents in self._contents])
        if not self.sizes.any():
            raise ValueError(f"the shards of {path!r} hold no samples")
        self._streams: dict[int, Any] = {}
        self.columns = find_columns(self._names(), columns or {}, self.files[0].name)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_streams": {}}  # a worker opens files of its own

    def row(self, chunk: int, number: int) -> Row:
        """One row; a `Fault` when a part is missing, its JSON is broken or the shard cannot be read."""
        values = self._values(chunk, number)
        name = self._name(chunk, number)
        for column in self.columns.pictures:
            if not isinstance(values.get(column), bytes):
                raise Fault("missing file", f"{name} has no {column}")
        return Row(
            id_of(values, self.columns) or name,
            tuple(values[column] for column in self.columns.pictures),
            texts_of(values, self.columns),
        )

    def _name(self, chunk: int, number: int) -> str:
        return f"{self.files[chunk].name}/{self._contents[chunk].keys[number].decode()}"

    def _names(self) -> list[str]:
        """Column names: the parts and fields of the first samples that can be read; not every sample has all."""
        first = int(np.flatnonzero(self.sizes)[0])
        names: dict[str, None] = {}
        for number in range(min(self.sizes[first], LOOKED_AT)):
            with suppress(Fault):
                names |= dict.fromkeys(self._values(first, number))
        return list(names)

    def _values(self, chunk: int, number: int) -> dict[str, Any]:
        """{"image" or the name before the ending: bytes, "txt": words, fields of the JSON: as they are}.

        Of one name, a picture goes before a joined field, that before a text, and that before a field of the JSON: many
        data sets have a field "source" or "image" that says where the picture is from.
        """
        contents = self._contents[chunk]
        fields: dict[str, Any] = {}
        texts: dict[str, str] = {}
        pictures: dict[str, bytes] = {}
        for part, offset, size in zip(contents.parts, contents.offsets[number], contents.sizes[number], strict=True):
            if size < 0:
                continue
            stem, _, ending = str(part).rpartition(".")
            data = self._read(chunk, int(offset), int(size))
            if f".{ending}".lower() in ENDINGS:
                pictures.setdefault(stem or "image", data)
            elif ending == "json":
                fields = _fields(data, f"{self._name(chunk, number)}.{part}") | fields
            elif ending in TEXT_ENDINGS:
                texts[stem or ending] = data.decode("utf-8", errors="replace")
        joined = self._joined.fields(contents.keys[number].decode()) if self._joined is not None else {}
        return fields | texts | joined | pictures

    def _read(self, chunk: int, offset: int, size: int) -> bytes:
        try:
            if chunk not in self._streams:
                while len(self._streams) >= 64:
                    self._streams.pop(next(iter(self._streams))).close()
                self._streams[chunk] = open(self.files[chunk], "rb")  # noqa: SIM115 (kept open between rows)
            stream = self._streams[chunk]
            stream.seek(offset)
            return stream.read(size)
        except OSError as error:
            self._streams.pop(chunk, None)  # a new one may do
            raise Fault("unreadable shard", f"{self.files[chunk].name}: {error}") from error

    def _read_contents(self, shard: Path, index: Path | None) -> Contents:
        """The table of contents, from its file when that is of this very shard."""
        file = table_file(shard, index)
        stat = shard.stat()
        state = np.array([stat.st_size, stat.st_mtime_ns])
        if file.is_file():
            with np.load(file) as kept:
                if np.array_equal(kept["state"], state):
                    contents = Contents(*(kept[name] for name in Contents._fields))
                    return self._noted(shard, contents._replace(whole=bool(contents.whole)))
        contents = _scan(shard)
        save_whole(file, state=state, **contents._asdict())
        return self._noted(shard, contents)

    def _noted(self, shard: Path, contents: Contents) -> Contents:
        if not contents.whole:
            self.notes.append(("cut off", f"{shard.name} is cut off or broken after {len(contents.keys)} samples"))
        return contents


def find_files(path: str, ending: str) -> list[Path]:
    """The files of a folder (also in folders inside), of a pattern, or the one file itself, in the order of names."""
    place = Path(path).expanduser()
    if place.is_dir():
        files = list(place.rglob(f"*{ending}"))
    else:
        files = [Path(file) for file in glob(str(place), recursive=True)]
    if not files:
        raise ValueError(f"{path!r} is neither a folder with *{ending} files nor a pattern that finds some")
    return sorted(files)


def _scan(shard: Path) -> Contents:
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    whole = True
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                tar.members = []  # it would remember every member
                folder, _, file = member.name.rpartition("/")
                stem, _, part = file.partition(".")
                if member.isfile() and stem and part:
                    key = f"{folder}/{stem}" if folder else stem
                    samples.setdefault(key, {})[part.lower()] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError):
        whole = False
    end = shard.stat().st_size
    for parts in list(samples.values())[-1:]:  # tarfile does not mind a last file that is shorter than promised
        whole = whole and all(offset + size <= end for offset, size in parts.values())
    names = sorted({part for parts in samples.values() for part in parts})
    places = np.array([[parts.get(name, (0, -1)) for name in names] for parts in samples.values()], np.int64)
    places = places.reshape(len(samples), len(names), 2)
    keys = np.array([key.encode() for key in samples], "S")
    return Contents(keys, np.array(names, str), places[..., 0], places[..., 1], whole)


def _fields(data: bytes, where: str) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise Fault("broken JSON", f"{where} is not JSON ({error})") from error
    return fields if isinstance(fields, dict) else {}
