"""People's own pictures, in a folder.

    pictures alone                        for the tokenizer; folders inside are classes, in the order of their names
                                          (a picture beside them is of none)
    a picture and its text: cat.jpg cat.txt        every line of the text is a caption, one is taken at a time
    captions.jsonl                        {"image": "cat.jpg", "caption": "a cat on a wall"}, a line each
    edits.jsonl                           {"source": "a.jpg", "instruction": "make it snow", "target": "b.jpg"}

Any one *.jsonl file does, with the column names that `train.data.rows` knows or that the settings give.
"""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .rows import Choice, Columns, Fault, Row, find_columns, id_of, picture_of, texts_of

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff")


class FolderSource:
    """A folder as one chunk of rows, in an order that depends on the names of their pictures alone, so that the first
    ones are as good a sample as any. Several rows of one picture stay together.

    Attributes:
        columns: what its rows have.
        sizes: rows per chunk.
        classes: names of the folders that are classes; none where it has none.
        notes: what is odd about the folder, no reason to stop: (problem, as of a `Fault`; sentence).

    Raises:
        ValueError: no folder, nothing in it, several lists, or a list whose columns are not known.
    """

    def __init__(self, path: str | Path, columns: Mapping[str, Choice] | None = None):
        self.folder = Path(path).expanduser()
        if not self.folder.is_dir():
            raise ValueError(f"there is no folder {str(path)!r}")
        self.notes: list[tuple[str, str]] = []
        self.classes: tuple[str, ...] = ()
        lists = sorted(self.folder.glob("*.jsonl"))
        if len(lists) > 1:
            names = ", ".join(file.name for file in lists)
            raise ValueError(f"the folder {str(path)!r} holds several lists ({names}); keep one of them")
        rows = self._from_list(lists[0], columns or {}) if lists else self._from_pictures()
        if not rows:
            raise ValueError(f"the folder {str(path)!r} holds no pictures ({', '.join(ENDINGS)}) and no .jsonl list")
        self._rows = sorted(rows, key=lambda row: (zlib.crc32(_picture(row).encode()), _picture(row)))
        self.sizes = np.array([len(rows)])

    def row(self, chunk: int, number: int) -> Row:
        """One row; a `Fault` for a line of the list that cannot be used."""
        entry = self._rows[number]
        if isinstance(entry, Fault):
            raise entry
        name, label, values, _ = entry
        if values is None:
            return Row(name, (self.folder / name,), self._words_beside(name), label)
        pictures = []
        for column in self.columns.pictures:
            if not isinstance(file := values.get(column), str) or not file:
                raise Fault("missing value", f"{name}: {column!r} names no picture")
            pictures.append(self.folder / file)
        return Row(name, tuple(pictures), texts_of(values, self.columns))

    def whole_pictures(self, count: int) -> int:
        """How many of the first rows to hold out, about `count`, so that no picture of theirs is trained on: not more,
        unless the first picture alone has more. `count` where all rows are of one picture."""
        pictures = [_picture(row) for row in self._rows]
        ends = [number for number in range(1, len(pictures)) if pictures[number] != pictures[number - 1]]
        return max((end for end in ends if end <= count), default=ends[0] if ends else count)

    def names(self) -> list[str]:
        """Ids of the rows in their order, without those that cannot be read."""
        return [entry[0] for entry in self._rows if not isinstance(entry, Fault)]

    def _from_pictures(self) -> list[tuple]:
        """(id, class, what a list says of it, the picture that it is of) of each."""
        files = sorted(file for file in self.folder.rglob("*") if not file.name.startswith("."))
        pictures = [file.relative_to(self.folder) for file in files if file.suffix.lower() in ENDINGS]
        texts = {file.relative_to(self.folder).with_suffix("") for file in files if file.suffix.lower() == ".txt"}
        captioned = {picture.with_suffix("") for picture in pictures} & texts
        kind, words = ("captions", {"caption": 1.0}) if captioned else ("pictures", {})
        self.columns = Columns(kind, ("image",), words)
        if captioned and len(texts) > len(captioned):
            note = f"{len(texts) - len(captioned)} text files have no picture of the same name"
            self.notes.append(("no picture for a text", note))
        self.classes = tuple(sorted({picture.parts[0] for picture in pictures if len(picture.parts) > 1}))
        labels = {name: number for number, name in enumerate(self.classes)}
        return [(name := picture.as_posix(), labels.get(picture.parts[0]), None, name) for picture in pictures]

    def _words_beside(self, name: str) -> tuple[tuple[str, float], ...]:
        if self.columns.kind != "captions":
            return ()
        file = (self.folder / name).with_suffix(".txt")
        if not file.is_file():
            raise Fault("no text file", f"{name}: there is no {file.name} beside it")
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise Fault("broken text", f"{name}: {file.name} is not UTF-8") from error
        return tuple((line.strip(), 1.0) for line in lines if line.strip())

    def _from_list(self, file: Path, given: Mapping[str, Choice]) -> list:
        lines: list[dict | Fault] = []
        with open(file, "rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    lines.append(_parsed(line, f"{file.name} line {number}"))
        names: dict[str, None] = {}
        for line in lines:
            names |= dict.fromkeys(line) if isinstance(line, dict) else {}
        self.columns = find_columns(list(names), given, file.name)
        used = {*self.columns.pictures, *self.columns.texts}
        rows = []
        for number, line in enumerate(lines, start=1):
            if isinstance(line, Fault):
                rows.append(line)
                continue
            name = id_of(line, self.columns) or f"row {number}"
            picture = picture_of(line, self.columns) or name
            rows.append((name, None, {column: line[column] for column in used & line.keys()}, picture))
        return rows


def _picture(row: tuple | Fault) -> str:
    """What decides a row's place."""
    return str(row if isinstance(row, Fault) else row[-1])


def _parsed(line: bytes, where: str) -> dict | Fault:
    try:
        values = json.loads(line.decode("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        return Fault("broken line", f"{where} is not JSON ({error})")
    return values if isinstance(values, dict) else Fault("broken line", f"{where} is no object in braces")
