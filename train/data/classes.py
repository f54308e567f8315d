"""Training data for class-conditional diffusion: pictures from class folders, or their latents, with label and noise.

Sample i, its noise and time included, is a pure function of the seed, i and the files.
"""

import numpy as np
import torch
from torch.utils.data import Dataset

from ..latents import LatentFolder
from .crop import squares
from .reader import Reader
from .rows import Row


class ClassSamples(Dataset):
    """Items: "image" uint8 (3, size, size), or "latent" (C, h, w) when latents are given; "label"; "noise" (C, h, w),
    "uniform" and "drop": for its noise, its time and dropping the label; "index"."""

    def __init__(
        self,
        reader: Reader,
        samples: int,
        size: int,
        latent_shape: tuple[int, int, int],
        num_classes: int,
        latents: LatentFolder | None = None,
        held_out: bool = False,
    ):
        self.reader, self.samples, self.size, self.held_out = reader, samples, size, held_out
        self.latent_shape, self.num_classes, self.latents = latent_shape, num_classes, latents

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        def use(row: Row) -> dict[str, torch.Tensor]:
            if row.label >= self.num_classes:
                raise ValueError(
                    f"{row.id} is of class {row.label}, counted from 0, and models.class_transformer has "
                    f"num_classes={self.num_classes}: give it as many as there are class folders"
                )
            rng = np.random.default_rng([*self.reader.key, int(self.held_out), index])
            item = {"label": torch.tensor(row.label), "index": torch.tensor(index)}
            if self.latents is None:
                item["image"] = torch.from_numpy(squares(row.open()[:1], self.size, self.reader.data, rng)[0])
            else:
                flipped = self.reader.data.flip and rng.random() < 0.5  # as `squares` draws it
                item["latent"] = self.latents.latent(row.id, flipped)
            return item | {
                "noise": torch.from_numpy(rng.standard_normal(self.latent_shape, dtype=np.float32)),
                "uniform": torch.tensor(rng.random(), dtype=torch.float32),
                "drop": torch.tensor(rng.random(), dtype=torch.float32),
            }

        return self.reader.read(index, use, self.held_out)
