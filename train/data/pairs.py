"""Training data for the diffusion transformer: a scene, two edits of it, and two captions.

The three pictures of an item (source and two results) are encoded once and give four samples: two edits and two
captioned pictures. Item i is a pure function of (seed, i), its noise and times included, so that a resumed run and any
number of processes see the same.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from .pictures import WHOLE, to_chw, token_labels
from .scenes import CATEGORIES, VOCABULARY, Edit, caption, draw, sample_edit
from .scenes.scene import MOST_OBJECTS

PICTURES = 3  # source, result of edit 1, result of edit 2
SAMPLES = 4  # edit 1, edit 2, caption of the source, caption of result 1
# Of each sample: the picture that is edited (-1: none, a caption's), and the one that is the result.
SOURCES, TARGETS = (0, 0, -1, -1), (1, 2, 0, 1)


class ScenePairs(Dataset):
    """Items: "images" uint8 (3, 3, H, W): source, result 1, result 2; "texts": instruction 1, instruction 2, caption
    of the source, caption of result 1; "noise" (4, draws, *latent_shape) and "uniform" (4, draws): for noise and times
    of each sample; "drop" (4,): uniform, for dropping text and source; "labels": what each patch of the three pictures
    shows, (3, rows, columns) per label of `token_labels`; "source" and "target" (4,): SOURCES and TARGETS.

    Args:
        common, common_share: a share of the items shows no other nouns than these (and signs), as some things are
            pictured and asked for far more often than others. ValueError for a noun that there is not, and for nouns
            of which not every scene can be made.
        common_words: in those items signs say no other words than these; none: any word. ValueError as for nouns.
        sampling: of scenes and captions, in place of the vocabulary's own shares, by their names. ValueError for one
            that there is not.
        edit_weights: of the first edit's category; one that is not named weighs 1. The second is any that the scene
            allows, all alike. ValueError for a category that there is not.
    """

    def __init__(
        self,
        seed: int,
        tag: int,
        items: int,
        latent_shape: tuple[int, int, int],
        draws: int,
        common: Sequence[str] = (),
        common_share: float = 0.0,
        sampling: Mapping[str, Any] = MappingProxyType({}),
        edit_weights: Mapping[str, float] = MappingProxyType({}),
        common_words: Sequence[str] = (),
    ):
        if common or common_share:
            _check_common(common)
        if unknown := [word for word in common_words if word not in VOCABULARY.words]:
            raise ValueError(f"signs never say {', '.join(unknown)}; their words are {', '.join(VOCABULARY.words)}")
        if len(set(common_words)) == 1:
            raise ValueError(f"common words are only {common_words[0]}: to change a sign's word it takes two")
        if unknown := [name for name in sampling if name not in VOCABULARY.sampling]:
            raise ValueError(f"the vocabulary's sampling has no {', '.join(unknown)}")
        if unknown := [name for name in edit_weights if name not in CATEGORIES]:
            raise ValueError(f"unknown edit category {', '.join(unknown)}; known are {', '.join(CATEGORIES)}")
        self.common, self.common_share = tuple(common), common_share
        self.common_words = tuple(common_words) or VOCABULARY.words
        self.sampling = sampling
        weights = np.array([edit_weights.get(name, 1.0) for name in CATEGORIES])
        if weights.min() < 0 or not weights.any():
            raise ValueError(f"weights of edits are 0 or more, and not all 0: {dict(edit_weights)}")
        self.category_shares = weights / weights.sum() if edit_weights else None
        self.key = (seed, tag)
        self.items = items
        self.latent_shape = latent_shape
        self.draws = draws

    def __len__(self) -> int:
        return self.items

    def edits(self, index: int) -> tuple[Edit, Edit, np.random.Generator]:
        """The two edits of item `index`, and the generator to go on with."""
        rng = np.random.default_rng([*self.key, index])
        is_common = self.common_share and rng.random() < self.common_share
        shown = {"drawn_nouns": self.common, "words": self.common_words} if is_common else {}
        with self._sampled(**shown):
            first = sample_edit(rng, self._category(rng))
            return first, sample_edit(rng, source=first.source), rng

    def _sampled(self, **shown) -> AbstractContextManager:
        """Inside the block scenes and captions are drawn with this dataset's shares."""
        return VOCABULARY.narrowed(sampling={**VOCABULARY.sampling, **self.sampling}, **shown)

    def _category(self, rng: np.random.Generator) -> str | None:
        """Of the first edit; None: any, all alike."""
        return None if self.category_shares is None else str(rng.choice(CATEGORIES, p=self.category_shares))

    def __getitem__(self, index: int) -> dict:
        first, second, rng = self.edits(index)
        scenes = (first.source, first.target, second.target)
        shape = (SAMPLES, self.draws)
        # Times of one sample's draws are spread evenly: one in each part of [0, 1).
        uniform = (np.arange(self.draws) + rng.random(shape)) / self.draws
        drop = rng.random(SAMPLES)  # before the noise, of which latents of other shapes have more or less
        with self._sampled():
            captions = [caption(scene, rng) for scene in scenes[:2]]
        labels = [token_labels(scene, WHOLE) for scene in scenes]
        return {
            "images": torch.stack([to_chw(draw(scene)) for scene in scenes]),
            "texts": [first.instruction, second.instruction, *captions],
            "source": torch.tensor(SOURCES),
            "target": torch.tensor(TARGETS),
            "noise": torch.from_numpy(rng.standard_normal((*shape, *self.latent_shape), dtype=np.float32)),
            "uniform": torch.from_numpy(uniform).float(),
            "drop": torch.from_numpy(drop).float(),
            "labels": {name: torch.from_numpy(np.stack([one[name] for one in labels])) for name in labels[0]},
        }


def _check_common(nouns: Sequence[str]) -> None:
    """ValueError for nouns of which scenes and prompts could be drawn for ever in vain."""
    if unknown := [noun for noun in nouns if noun not in VOCABULARY.drawn_nouns]:
        raise ValueError(f"the vocabulary of scenes has no {', '.join(unknown)}")
    if (most := VOCABULARY.most_together(nouns)) <= MOST_OBJECTS:
        raise ValueError(
            f"common nouns are {most} that can stand in one scene, which may need {MOST_OBJECTS + 1}: name more"
        )
    colored = sorted({noun for noun in nouns if VOCABULARY.nouns[noun].tintable})
    if VOCABULARY.most_together(colored) < 2:
        raise ValueError(
            f"of the common nouns {', '.join(colored) or 'none'} can be coloured; scenes and prompts colour two that "
            "stand together: name more that can"
        )
