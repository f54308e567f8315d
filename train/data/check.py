"""`python -m train data check PATH`: what is wrong with a data folder, before training starts.

    python -m train data check my-pictures
    python -m train data check "cc12m/*.tar" --column caption=caption_llava --headers
    python -m train data check "omniedit/**/train-*.parquet" --size 512
    python -m train data check my-captions --max-tokens 256 --text-encoder hf:Qwen/Qwen3-0.6B

PATH is a folder (pictures, captions or edits), tar shards or parquet tables. Everything is read once, as training would
read it. Exit code 2 when anything is wrong.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from rpiae import images

from .crop import SAME_SHAPE
from .reader import Source, open_source
from .rows import Fault, Row
from .settings import SourceSettings

SHOWN = 10
# What training can do with, though a person may want to know.
HINTS = ("enlarged", "no picture for a text", "no class", "cut text", "duplicate id")
PACKAGED = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass
class Findings:
    """`problems`: what → the rows that have it, the first ten in words; and how many there are."""

    rows: int = 0
    texts: int = 0
    sides: list[int] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, problem: str, message: str) -> None:
        self.counts[problem] = self.counts.get(problem, 0) + 1
        said = self.problems.setdefault(problem, [])
        if len(said) < SHOWN:
            said.append(message)

    @property
    def errors(self) -> int:
        return sum(count for problem, count in self.counts.items() if problem not in HINTS)


def guess_kind(path: str) -> str:
    """What a path is by its files: tar shards, parquet tables, or a folder of pictures."""
    place = Path(path).expanduser()
    for kind, ending in (("webdataset", ".tar"), ("table", ".parquet")):
        if str(place).endswith(ending) or (place.is_dir() and next(place.rglob(f"*{ending}"), None) is not None):
            return kind
    return "folder"


@dataclass(frozen=True)
class TextLimit:
    """What a text encoder reads of a text: `most` word pieces, counted by `count`."""

    most: int
    count: Callable[[str], int]

    @classmethod
    def of(cls, model: str, most: int) -> "TextLimit":
        """Of a language model: the name of a packaged one, or its folder; ValueError where it is not there."""
        from transformers import AutoTokenizer  # takes seconds, and few ask for it

        from rpiae.text import find_weights

        folder = find_weights(model)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ValueError(f"the folder {model!r} holds no tokenizer that can be read: {error}") from None
        return cls(most, lambda text: len(tokenizer(text, verbose=False)["input_ids"]))


def check(source: Source, size: int, headers: bool = False, limit: TextLimit | None = None) -> Findings:
    """Read everything; `headers` does not decode the pictures, which finds no damage inside of them."""
    found = Findings()
    for problem, note in source.notes:
        found.add(problem, note)
    seen: set[str] = set()
    total = int(source.sizes.sum())
    for chunk, number in tqdm(_places(source), total=total, unit="row", leave=False, disable=None):
        found.rows += 1
        try:
            row = source.row(chunk, number)
            if row.id in seen:
                found.add("duplicate id", f"{row.id} is there more than once")
            seen.add(row.id)
            if source.columns.texts and not row.texts:
                found.add("no text", f"{row.id}: its caption or instruction is empty")
            found.texts += len(row.texts)
            if limit is not None:
                _check_texts(found, row, limit)
            if source.classes and source.columns.kind == "pictures" and row.label is None:
                found.add("no class", f"{row.id} lies beside the class folders: no class stage learns from it")
            sizes = _header_sizes(row) if headers else [picture.size for picture in row.open()]
        except Fault as fault:
            found.add(fault.problem, str(fault))
            continue
        _check_sizes(found, row, sizes, size)
    return found


def report(source: Source, found: Findings, size: int) -> str:
    """The findings as text."""
    columns = source.columns
    lines = [f"{columns.kind}: {found.rows} rows", f"pictures in: {', '.join(columns.pictures)}"]
    if columns.texts:
        lines.append(f"words in: {', '.join(columns.texts)} ({found.texts} texts)")
    if found.sides:
        ordered = sorted(found.sides)
        lines.append(
            f"shorter side: {ordered[0]} to {ordered[-1]} pixels, half of them at least {ordered[len(ordered) // 2]}"
        )
    for problem, said in sorted(found.problems.items(), key=lambda entry: entry[0] in HINTS):
        lines.append(f"{'note' if problem in HINTS else 'WRONG'}: {problem}: {found.counts[problem]}")
        lines += [f"    {message}" for message in said]
        if found.counts[problem] > len(said):
            lines.append(f"    ... and {found.counts[problem] - len(said)} more")
    if not found.errors:
        lines.append(f"nothing is wrong for training at {size} pixels")
    return "\n".join(lines)


def _places(source: Source) -> Iterator[tuple[int, int]]:
    for chunk, rows in enumerate(source.sizes.tolist()):
        for number in range(rows):
            yield chunk, number


def _header_sizes(row: Row) -> list[tuple[int, int]]:
    sizes = []
    for picture in row.pictures:
        if isinstance(picture, Path) and not picture.is_file():
            raise Fault("missing file", f"{row.id}: there is no file {picture.name!r}")
        try:
            sizes.append(images.describe(picture).size)
        except ValueError as error:
            raise Fault("broken picture", f"{row.id}: {error}") from error
    return sizes


def _check_texts(found: Findings, row: Row, limit: TextLimit) -> None:
    for text, _ in row.texts:
        if (count := limit.count(text)) > limit.most:
            words = f"{count} word pieces, cut after {limit.most}; it begins {text[:40]!r}"
            found.add("cut text", f"{row.id}: {words}")


def _check_sizes(found: Findings, row: Row, sizes: list[tuple[int, int]], size: int) -> None:
    side = min(min(one) for one in sizes)
    found.sides.append(side)
    words = " and ".join(f"{width}x{height}" for width, height in sizes)
    if 2 * side < size:
        found.add("too small", f"{row.id}: {words}, less than half of {size} pixels")
    elif side < size:
        found.add("enlarged", f"{row.id}: {words}, smaller than {size} pixels")
    ratios = [width / height for width, height in sizes]
    if max(ratios) > (1 + SAME_SHAPE) * min(ratios):
        found.add("different shapes", f"{row.id}: source and target are {words}")


def main(arguments: list[str]) -> None:
    """`python -m train data check ...`; ValueError when anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m train data", description="Training data of your own.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("check", help="say what is wrong with a data folder, before training starts")
    command.add_argument("path", help="a folder, or a pattern of .tar or .parquet files")
    kinds = ("folder", "webdataset", "table")
    command.add_argument("--kind", choices=kinds, help="what it is, when a look is not enough")
    command.add_argument(
        "--column", action="append", default=[], metavar="ROLE=NAME[,NAME]", help="as `columns` in a config"
    )
    command.add_argument("--size", type=int, default=256, help="side of the training pictures")
    command.add_argument("--headers", action="store_true", help="read sizes only: quicker, finds no damage inside")
    command.add_argument("--index", type=Path, help="folder for the shards' tables of contents; else beside the shards")
    command.add_argument("--join", type=Path, help="JSON lines with more fields for the shards' samples")
    command.add_argument("--max-tokens", type=int, metavar="N", help="note texts of more word pieces, which are cut")
    command.add_argument("--text-encoder", default=PACKAGED, metavar="MODEL", help="whose word pieces; as in a config")
    options = parser.parse_args(arguments)
    columns = {}
    for column in options.column:
        role, separator, names = column.partition("=")
        if not separator or not names:
            raise ValueError(f"a column is given as ROLE=NAME, this one is {column!r}")
        columns[role] = tuple(names.split(","))
    kind = options.kind or guess_kind(options.path)
    settings = {"kind": kind, "path": options.path, "columns": columns, "index": options.index, "join": options.join}
    source = open_source(SourceSettings(**settings))
    limit = TextLimit.of(options.text_encoder, options.max_tokens) if options.max_tokens is not None else None
    found = check(source, options.size, options.headers, limit)
    print(report(source, found, options.size))
    if found.errors:
        raise ValueError(f"{options.path}: {found.errors} things are wrong in {found.rows} rows, see above")
