"""The study's world: fewer nouns, backgrounds and kinds of edit, and pictures seen smaller than they are drawn.

Scenes keep their 256 px canvas, so the judge works as it is: pictures are halved or quartered for the models, and what
the models draw is enlarged again for the judge.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from ..data.pairs import ScenePairs
from ..data.pictures import IGNORE, PictureSettings, ScenePictures
from ..data.scenes import CATEGORIES, VOCABULARY, Edit, Scene, sample_edit, sprite
from ..data.scenes.sample import pick
from ..data.scenes.scene import MOST_OBJECTS, Sticker
from ..data.scenes.vocabulary import SIGN
from ..evaluate.bank import bank
from .config import WorldSettings

V = VOCABULARY
TRIES = 200
OBJECT_SHARE = 0.5  # of a cell's parts that must show an object before the cell counts as one


@contextmanager
def inhabited(world: WorldSettings) -> Iterator[None]:
    """Inside the block all random scenes, edits and prompts are of this world, and so are the judge's alternatives.

    One process, one world at a time: the vocabulary itself is narrowed, and is as before after the block.
    """
    _check(world)
    # The atlas of stickers knows its places by the whole vocabulary: make it look them up before.
    sprite(Sticker(V.drawn_nouns[0], None, "small", 0, 0), "flat")
    bank.cache_clear()
    try:
        with V.narrowed(**_vocabulary(world)):
            yield
    finally:
        bank.cache_clear()


def check_inhabited(world: WorldSettings) -> None:
    """RuntimeError outside of `inhabited`, where pictures would be of the whole vocabulary and nothing would say so."""
    if any(getattr(V, name) != value for name, value in _vocabulary(world).items()):
        raise RuntimeError("pictures of the study's world are drawn inside `with inhabited(world)` alone")


def _vocabulary(world: WorldSettings) -> dict[str, Any]:
    """What the vocabulary is narrowed to."""
    nouns = V.nouns if world.nouns is None else {name: V.nouns[name] for name in (*world.nouns, SIGN)}
    backgrounds = world.backgrounds or tuple(V.backgrounds)
    return {
        "nouns": MappingProxyType(dict(nouns)),
        "drawn_nouns": tuple(name for name in nouns if name != SIGN),
        "backgrounds": MappingProxyType({name: V.backgrounds[name] for name in backgrounds}),
        "sampling": MappingProxyType({**V.sampling, **world.sampling}),
    }


def _check(world: WorldSettings) -> None:
    """ValueError for names that the vocabulary does not have, and for a side that the canvas is no multiple of."""
    asked = {
        "nouns": (world.nouns, V.drawn_nouns),
        "backgrounds": (world.backgrounds, V.backgrounds),
        "categories": (world.categories, CATEGORIES),
        "sampling": (tuple(world.sampling), V.sampling),
    }
    for what, (names, known) in asked.items():
        if unknown := [name for name in names or () if name not in known]:
            raise ValueError(f"world.{what}: the vocabulary has no {', '.join(unknown)}")
    if world.nouns is not None and (most := V.most_together(world.nouns)) <= MOST_OBJECTS:
        raise ValueError(f"of world.nouns {most} can stand in one scene, which may need {MOST_OBJECTS + 1}: name more")
    counts = {**V.sampling, **world.sampling}["n_objects"]
    if not {"1", "2", "3"} <= set(counts):
        raise ValueError(f"world.sampling.n_objects has {', '.join(counts)}; some edits need scenes of 1, 2 and 3")
    if V.canvas % world.side or world.side % 32:
        raise ValueError(f"world.side is {world.side}; use {V.canvas}, {V.canvas // 2} or {V.canvas // 4}")


def belongs(scene: Scene, world: WorldSettings) -> bool:
    """Whether a scene is of the world: a narrowed one has no signs."""
    return world.nouns is None or all(one.noun in world.nouns for one in scene.objects)


def sample_world_edit(
    rng: np.random.Generator,
    world: WorldSettings,
    category: str | None = None,
    source: Scene | None = None,
    unseen: bool = False,
) -> Edit:
    """A random edit between two scenes of the world, of a random one of its categories unless one is given."""
    for _ in range(TRIES):
        try:
            edit = sample_edit(rng, category or pick(rng, world.categories or CATEGORIES), source, unseen)
        except ValueError:  # this scene allows no edit of that category
            continue
        if belongs(edit.source, world) and belongs(edit.target, world):
            return edit
    raise ValueError(f"world: {TRIES} tries found no edit ({category or 'of any category'}); widen nouns or categories")


def seen(pictures: Tensor, world: WorldSettings) -> Tensor:
    """uint8 (..., 3, 256, 256) → uint8 (..., 3, side, side), means of pixels."""
    factor = pictures.shape[-1] // world.side
    if factor == 1:
        return pictures
    flat = pictures.flatten(0, -4) if pictures.ndim > 3 else pictures[None]
    small = F.avg_pool2d(flat.float(), factor).round().to(torch.uint8)
    return small.view(*pictures.shape[:-2], *small.shape[-2:])


def for_judge(pictures: Tensor) -> list[np.ndarray]:
    """float (B, 3, side, side) in [0, 1] → uint8 (256, 256, 3) pictures."""
    x = pictures.float().cpu()
    if x.shape[-1] != V.canvas:
        x = F.interpolate(x, size=(V.canvas, V.canvas), mode="bicubic", align_corners=False)
    return list((x.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())


def coarser(labels: dict[str, Tensor], factor: int) -> dict[str, Tensor]:
    """Labels of patches (h, w) or (h, w, 2) → those of cells of factor x factor patches: the object patch nearest to
    its sticker's middle speaks for a cell that shows objects in half of its parts, any other patch for the rest."""
    if factor == 1:
        return labels

    def parts(x: Tensor) -> Tensor:
        blocks = x.unflatten(0, (-1, factor)).unflatten(2, (-1, factor)).transpose(1, 2)
        return blocks.flatten(2, 3)  # (h, w, factor * factor, ...)

    shows = parts(labels["color"]) != IGNORE
    wanted = shows.float().mean(-1, keepdim=True) >= OBJECT_SHARE
    away = parts(labels["offset"]).norm(dim=-1)
    far = away.max() + 1
    chosen = torch.where(shows == wanted, away, away + far).argmin(-1)
    found = {}
    for name, label in labels.items():
        index = chosen[..., None] if label.ndim == 2 else chosen[..., None, None].expand(-1, -1, 1, label.shape[-1])
        found[name] = parts(label).gather(2, index).squeeze(2)
    return found


class WorldPictures(Dataset):
    """Whole scenes as the models see them, from number `first` on; items as those of `ScenePictures`, labels for the
    smaller cells."""

    def __init__(
        self, world: WorldSettings, seed: int, tag: int, samples: int, labels: bool = False, first: int = 0
    ):
        check_inhabited(world)
        self.world, self.first = world, first
        self.scenes = ScenePictures(seed, tag, first + samples, PictureSettings(labels=labels))

    def __len__(self) -> int:
        return len(self.scenes) - self.first

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        item = self.scenes[self.first + index]
        kept = {"image": seen(item.pop("image"), self.world), "index": item.pop("index")}
        return kept | (coarser(item, V.canvas // self.world.side) if item else {})


class WorldPairs(ScenePairs):
    """A scene, two edits of it and two captions, as the models see them; items as those of `ScenePairs`."""

    def __init__(
        self, world: WorldSettings, seed: int, tag: int, items: int, latent_shape: tuple[int, int, int], draws: int
    ):
        check_inhabited(world)
        super().__init__(seed, tag, items, latent_shape, draws)
        self.world = world

    def edits(self, index: int) -> tuple[Edit, Edit, np.random.Generator]:
        rng = np.random.default_rng([*self.key, index])
        first = sample_world_edit(rng, self.world)
        return first, sample_world_edit(rng, self.world, source=first.source), rng

    def __getitem__(self, index: int) -> dict:
        item = super().__getitem__(index)
        # What patches of the large picture show is not what the cells of the small one do; no task here asks.
        item.pop("labels", None)
        return item | {"images": seen(item["images"], self.world)}
