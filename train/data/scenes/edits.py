"""Edits: a scene, an instruction and the scene that follows. Everything not named stays to the pixel."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .changes import MAKERS, Change, shuffled
from .sample import pick, sample_scene, unseen_pairs
from .scene import Scene, check
from .vocabulary import VOCABULARY

CATEGORIES = tuple(MAKERS)
TRIES, ATTEMPTS = 12, 2000  # of one maker on one given scene; of a maker over sampled scenes

Rng = np.random.Generator


@dataclass(frozen=True)
class Edit:
    instruction: str
    category: str
    source: Scene
    target: Scene
    kind: str = ""  # the sub-kind of the category: "absolute", "all", "sepia", ...

    def to_json(self) -> dict[str, Any]:
        scenes = {"source": self.source.to_json(), "target": self.target.to_json()}
        return {"instruction": self.instruction, "category": self.category, "kind": self.kind} | scenes

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Edit":
        source, target = Scene.from_json(data["source"]), Scene.from_json(data["target"])
        return cls(data["instruction"], data["category"], source, target, data.get("kind", ""))


def _write(category: str, kind: str, source: Scene, change: Change, rng: Rng) -> Edit:
    target, words = change
    phrase = pick(rng, VOCABULARY.grammar["edits"][category][kind])
    return Edit(phrase.format(**words), category, source, target, kind)


def _kinds(category: str, rng: Rng) -> list[str]:
    """The kinds of the category in random order, larger shares first more often."""
    makers = MAKERS[category]
    shares = np.array([maker.share for maker in makers.values()])
    order = rng.choice(len(makers), len(makers), replace=False, p=shares / shares.sum())
    return [list(makers)[i] for i in order]


def _edit_of(source: Scene, category: str, rng: Rng, unseen: bool) -> Edit | None:
    """An edit of that category of this very scene, whatever its kind."""
    for kind in _kinds(category, rng):
        for _ in range(TRIES):
            if change := MAKERS[category][kind].make(source, rng, unseen):
                return _write(category, kind, source, change, rng)
    return None


def _of_scene(source: Scene, category: str | None, rng: Rng, unseen: bool) -> Edit:
    check(source)
    if source.filter is not None:
        raise ValueError(f"an edit starts from a scene without filter, not from {source.filter!r}")
    if not unseen and (pairs := unseen_pairs(source)):
        raise ValueError(f"the source has the unseen pair {pairs[0]}; pass unseen=True (evaluation only)")
    for name in shuffled(rng, CATEGORIES) if category is None else [category]:
        if edit := _edit_of(source, name, rng, unseen):
            return edit
    raise ValueError(f"this scene allows no {category or ''} edit: {source.to_json()}")


def sample_edit(
    rng: Rng,
    category: str | None = None,
    source: Scene | None = None,
    unseen: bool = False,
    *,
    kind: str | None = None,
) -> Edit:
    """A random legal edit, of a random scene unless `source` is given.

    Categories are drawn uniformly unless one is named, kinds by their share unless one is named (with its
    category). `unseen=True` allows (noun, colour) pairs that training never shows. Raises ValueError for an
    unknown category or kind and for a source that allows no such edit.
    """
    if category is not None and category not in MAKERS:
        raise ValueError(f"unknown edit category {category!r}; known are {', '.join(CATEGORIES)}")
    if kind is not None and kind not in MAKERS.get(category, {}):
        raise ValueError(f"category {category!r} has no kind {kind!r}")
    if source is not None:
        return _of_scene(source, category, rng, unseen)
    category = category or pick(rng, CATEGORIES)
    kind = kind or _kinds(category, rng)[0]
    maker = MAKERS[category][kind]
    for _ in range(ATTEMPTS):
        scene = sample_scene(rng, unseen=unseen, **maker.needs)
        if change := maker.make(scene, rng, unseen):
            return _write(category, kind, scene, change, rng)
    raise AssertionError(f"no scene of {ATTEMPTS} allowed the edit {category}/{kind}")
