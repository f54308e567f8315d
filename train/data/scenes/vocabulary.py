"""The words and numbers of the sticker scenes: `assets/scenes/vocabulary.json` as frozen data, read once."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

PATH = Path(__file__).resolve().parents[3] / "assets" / "scenes" / "vocabulary.json"
SIGN = "sign"


@dataclass(frozen=True)
class Drawing:
    """One noun in one style: which SVG of the style's package, and how to cut and recolour it."""

    file: str
    sha256: str  # the first 16 hex digits
    viewbox: tuple[float, float, float, float]
    tint: Mapping[str, float]  # colour literal in the SVG -> shade of the new colour, -1 black .. 1 white
    native: tuple[str, ...]  # colours that the drawing already has


@dataclass(frozen=True)
class Noun:
    name: str
    plural: str
    article: str
    tintable: bool
    drawings: Mapping[str, Drawing]  # by style; empty for the sign, which has no SVG

    def native(self, style: str) -> tuple[str, ...]:
        """Colour words that already fit the noun in its own colours."""
        if self.name == SIGN:  # the flat board is blue, the outlined one white
            return ("blue",) if style == "flat" else ()
        return self.drawings[style].native


@dataclass(frozen=True)
class Background:
    name: str
    kind: str  # "plain" or "scene"
    phrase: str  # in a caption: "in a meadow"
    edit: str  # in an instruction: "a meadow"
    ops: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Vocabulary:
    """All that scenes are made of. `raw` is the JSON file, for the parts that are used in one place only."""

    raw: Mapping[str, Any]
    digest: str  # of the file's bytes
    canvas: int
    border: int
    margin: int
    gap: int
    sizes: Mapping[str, int]  # side of the drawing in pixels, ascending
    anchors: tuple[int, ...]
    region_bounds: tuple[int, ...]
    styles: tuple[str, ...]
    filters: tuple[str, ...]
    words: tuple[str, ...]
    colors: Mapping[str, tuple[int, int, int]]
    backgrounds: Mapping[str, Background]
    nouns: Mapping[str, Noun]  # the 129 drawn nouns, and the sign last
    never_together: tuple[frozenset[str], ...]

    @cached_property
    def drawn_nouns(self) -> tuple[str, ...]:
        """All nouns but the sign."""
        return tuple(name for name in self.nouns if name != SIGN)

    @cached_property
    def grammar(self) -> Mapping[str, Any]:
        return self.raw["grammar"]

    @cached_property
    def sampling(self) -> Mapping[str, Any]:
        return self.raw["sampling"]

    def rivals(self, noun: str) -> frozenset[str]:
        """Nouns that must not share a scene with this one, because their drawings read alike."""
        return frozenset().union(*(group for group in self.never_together if noun in group)) - {noun}

    def most_together(self, nouns: Iterable[str]) -> int:
        """How many of these nouns one scene can show: of rivals a single one."""
        return len({next((group for group in self.never_together if noun in group), noun) for noun in nouns})

    @contextmanager
    def narrowed(self, **values: Any) -> Iterator[None]:
        """Inside the block these attributes have other values, so that less is drawn at random. It holds for the whole
        process: one block at a time, and no drawing of pictures in other threads."""
        before = {name: getattr(self, name) for name in values}
        vars(self).update(values)  # frozen to everybody else
        try:
            yield
        finally:
            vars(self).update(before)


def _noun(entry: Mapping[str, Any]) -> Noun:
    drawings = {
        style: Drawing(
            file=one["file"],
            sha256=one["sha256"],
            viewbox=tuple(one["viewbox"]),
            tint=MappingProxyType(one["tint"]),
            native=tuple(one["native"]),
        )
        for style, one in entry.get("styles", {}).items()
    }
    return Noun(
        entry["noun"], entry["plural"], entry["article"], entry["tintable"], MappingProxyType(drawings)
    )


def read(path: Path = PATH) -> Vocabulary:
    """Read a vocabulary file. Raises ValueError when it is missing or of another version."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(
            f"the sticker vocabulary is missing: {path}; restore it from the repository"
        ) from None
    raw = json.loads(data)
    if raw["version"] != 1:
        raise ValueError(f"{path} has version {raw['version']}; this code reads version 1")
    nouns = [_noun(entry) for entry in [*raw["nouns"], raw["sign"]]]
    backgrounds = [
        Background(one["name"], one["kind"], one["phrase"], one["edit"], tuple(one["ops"]))
        for one in raw["backgrounds"]
    ]
    return Vocabulary(
        raw=MappingProxyType(raw),
        digest=hashlib.sha256(data).hexdigest(),
        canvas=raw["canvas"],
        border=raw["border"],
        margin=raw["margin"],
        gap=raw["gap"],
        sizes=MappingProxyType(raw["sizes"]),
        anchors=tuple(raw["anchors"]),
        region_bounds=tuple(raw["region_bounds"]),
        styles=tuple(raw["styles"]),
        filters=tuple(raw["filters"]),
        words=tuple(raw["words"]),
        colors=MappingProxyType({color["name"]: tuple(color["rgb"]) for color in raw["colors"]}),
        backgrounds=MappingProxyType({one.name: one for one in backgrounds}),
        nouns=MappingProxyType({noun.name: noun for noun in nouns}),
        never_together=tuple(frozenset(group) for group in raw["never_together"]),
    )


VOCABULARY = read()
