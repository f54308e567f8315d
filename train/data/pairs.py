"""Training data for the diffusion transformer: a scene, two edits of it, and two captions.

The three pictures of an item (source and two results) are encoded once and give four samples: two edits and two
captioned pictures. Item i is a pure function of (seed, i), its noise and times included, so that a resumed run and any
number of processes see the same.
"""

import numpy as np
import torch
from torch.utils.data import Dataset

from .pictures import WHOLE, to_chw, token_labels
from .scenes import Edit, caption, draw, sample_edit

PICTURES = 3  # source, result of edit 1, result of edit 2
SAMPLES = 4  # edit 1, edit 2, caption of the source, caption of result 1


class ScenePairs(Dataset):
    """Items: "images" uint8 (3, 3, H, W): source, result 1, result 2; "texts": instruction 1, instruction 2, caption
    of the source, caption of result 1; "noise" (4, draws, *latent_shape) and "uniform" (4, draws): for noise and times
    of each sample; "drop" (4,): uniform, for dropping text and source; "labels": what each patch of the three pictures
    shows, (3, rows, columns) per label of `token_labels`."""

    def __init__(self, seed: int, tag: int, items: int, latent_shape: tuple[int, int, int], draws: int):
        self.key = (seed, tag)
        self.items = items
        self.latent_shape = latent_shape
        self.draws = draws

    def __len__(self) -> int:
        return self.items

    def edits(self, index: int) -> tuple[Edit, Edit, np.random.Generator]:
        """The two edits of item `index`, and the generator to go on with."""
        rng = np.random.default_rng([*self.key, index])
        first = sample_edit(rng)
        return first, sample_edit(rng, source=first.source), rng

    def __getitem__(self, index: int) -> dict:
        first, second, rng = self.edits(index)
        scenes = (first.source, first.target, second.target)
        shape = (SAMPLES, self.draws)
        # Times of one sample's draws are spread evenly: one in each part of [0, 1).
        uniform = (np.arange(self.draws) + rng.random(shape)) / self.draws
        labels = [token_labels(scene, WHOLE) for scene in scenes]
        return {
            "images": torch.stack([to_chw(draw(scene)) for scene in scenes]),
            "texts": [first.instruction, second.instruction, *(caption(scene, rng) for scene in scenes[:2])],
            "noise": torch.from_numpy(rng.standard_normal((*shape, *self.latent_shape), dtype=np.float32)),
            "uniform": torch.from_numpy(uniform).float(),
            "drop": torch.from_numpy(rng.random(SAMPLES)).float(),
            "labels": {name: torch.from_numpy(np.stack([one[name] for one in labels])) for name in labels[0]},
        }
