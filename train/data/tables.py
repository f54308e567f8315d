"""Parquet tables of edits or captions, as OmniEdit, NHR-Edit or InstructPix2Pix come: pictures are in the cells.

A chunk is a row group. A few of them are kept in memory at a time; `DataSettings.processes` and `workers` see to it
that no row group is read twice. Read by pyarrow itself: the datasets package streams in one order only, and a stream
cannot be entered in the middle.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from pyarrow import ArrowException, ChunkedArray

from .rows import Choice, Fault, Row, find_columns, id_of, texts_of
from .shards import find_files


class TableSource:
    """Parquet files as chunks of rows; attributes as of `FolderSource`.

    Args:
        path: a folder with *.parquet in it, or a pattern.
        kept: row groups that stay in memory.
    """

    classes: tuple[str, ...] = ()

    def __init__(self, path: str, columns: Mapping[str, Choice] | None = None, kept: int = 4):
        self.files, self.kept = find_files(path, ".parquet"), kept
        self.notes: list[tuple[str, str]] = []
        self._groups: list[tuple[int, int]] = []
        sizes, names = [], None
        for number, file in enumerate(self.files):
            try:
                table = pq.ParquetFile(file)
            except (ArrowException, OSError) as error:
                note = f"{file.name} is cut off or no parquet file ({str(error).splitlines()[0]})"
                self.notes.append(("cut off", note))
                continue
            if names is None:
                names = table.schema_arrow.names
            elif missing := set(names) - set(table.schema_arrow.names):
                names = ", ".join(sorted(missing))
                raise ValueError(f"{file.name} lacks columns that the files before it have: {names}")
            for group in range(table.num_row_groups):
                self._groups.append((number, group))
                sizes.append(table.metadata.row_group(group).num_rows)
            table.close()
        if not sum(sizes):
            raise ValueError(f"the tables of {path!r} hold no rows that can be read")
        self.sizes = np.array(sizes)
        self.columns = find_columns(names, columns or {}, self.files[0].name)
        self._read: dict[int, Any] = {}

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_read": {}}

    def row(self, chunk: int, number: int) -> Row:
        """One row; a `Fault` when a picture is missing, a text is not UTF-8 or its row group cannot be read."""
        file = self.files[self._groups[chunk][0]]
        place = f"{file.name} group {self._groups[chunk][1]} row {number}"
        values = {name: _value(cells, number, f"{place}: {name}") for name, cells in self._group(chunk).items()}
        name = id_of(values, self.columns) or place
        pictures = [_picture(values.get(c), file.parent, f"{name}: {c}") for c in self.columns.pictures]
        return Row(name, tuple(pictures), texts_of(values, self.columns))

    def _group(self, chunk: int) -> dict[str, Any]:
        if chunk not in self._read:
            number, group = self._groups[chunk]
            wanted = {*self.columns.pictures, *self.columns.texts, *self.columns.ids}
            while len(self._read) >= self.kept:
                del self._read[next(iter(self._read))]
            try:
                with pq.ParquetFile(self.files[number], memory_map=True) as table:
                    read = table.read_row_group(group, columns=sorted(wanted), use_threads=False)
            except (ArrowException, OSError) as error:
                raise Fault("broken row group", f"{self.files[number].name} group {group}: {error}") from error
            self._read[chunk] = {name: read.column(name) for name in read.column_names}
        return self._read[chunk]


def _value(cells: ChunkedArray, number: int, where: str) -> Any:
    try:
        return cells[number].as_py()
    except (UnicodeDecodeError, ArrowException) as error:  # a parquet file may say that any bytes are a string
        raise Fault("broken text", f"{where} cannot be read ({error})") from error


def _picture(cell: Any, folder: Path, where: str) -> Path | bytes:
    """A cell's picture: bytes, {"bytes": ..., "path": ...}, a file's name, or a list with one of them."""
    if isinstance(cell, list) and len(cell) == 1:
        cell = cell[0]
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes) and cell:
        return cell
    if isinstance(cell, str) and cell:
        return folder / cell
    raise Fault("missing value", f"{where} holds no picture")
