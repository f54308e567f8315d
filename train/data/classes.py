"""Training data for class-conditional diffusion: pictures from class folders, or their latents, with label and noise.

Sample i, its noise and time included, is a pure function of the seed, i and the files.
"""

import numpy as np
import torch
from torch.utils.data import Dataset

from ..latents import LatentFolder
from .crop import checked_size, squares
from .reader import Reader
from .rows import Fault, Row


class ClassSamples(Dataset):
    """Items: "image" uint8 (3, size, size), or "latent" (C, h, w) when latents are given; "label"; "noise" (C, h, w),
    "uniform" and "drop": for its noise, its time and dropping the label; "index".

    Raises:
        ValueError: a source without class folders, sources with different ones, more of them than `num_classes`, or a
            size that cannot be cut out.
    """

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
        _check_classes(reader, num_classes)
        self.reader, self.samples, self.held_out = reader, samples, held_out
        self.size = checked_size(size, reader.data)
        self.latent_shape, self.latents = latent_shape, latents

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        def use(row: Row) -> dict[str, torch.Tensor]:
            if row.label is None:
                raise Fault("no class", f"{row.id} lies beside the class folders, not in one of them")
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


def _check_classes(reader: Reader, num_classes: int) -> None:
    first = reader.sources[0].classes
    for settings, source in zip(reader.data.sources, reader.sources, strict=True):
        if not source.classes:
            raise ValueError(
                f"{settings.path} has no classes: class-conditional training needs kind: folder, with a folder of "
                "pictures for each class"
            )
        # Every source counts its own class folders: only the same names have the same numbers.
        if source.classes != first:
            raise ValueError(
                f"{settings.path} has other class folders than {reader.data.sources[0].path}: several sources need "
                "folders of the same names"
            )
    if len(first) > num_classes:
        raise ValueError(
            f"{reader.data.sources[0].path} has {len(first)} class folders and models.class_transformer has "
            f"num_classes={num_classes}: give it as many as there are class folders"
        )
