"""What tasks are given from people's own data: pictures for a tokenizer, captioned pictures and edits for a diffusion
transformer. Batches look like those of sticker scenes (`train.data.pictures`, `train.data.pairs`)."""

import numpy as np
import torch
from torch.utils.data import Dataset

from .crop import checked_size, squares
from .reader import Reader
from .rows import Row


class PictureFiles(Dataset):
    """Pictures of any source, edits' sources and results alike: {"image": uint8 (3, size, size), "index": the sample's
    number, "label": the class of its folder, 0 where it has none}."""

    def __init__(self, reader: Reader, samples: int, size: int, held_out: bool = False):
        self.reader, self.samples, self.held_out = reader, samples, held_out
        self.size = checked_size(size, reader.data)

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        def use(row: Row) -> dict[str, torch.Tensor]:
            rng = _rng(self.reader, index, self.held_out)
            opened = row.open()
            picture = opened[rng.integers(len(opened))]
            square = squares([picture], self.size, self.reader.data, rng)[0]
            label = torch.tensor(row.label or 0)
            return {"image": torch.from_numpy(square), "index": torch.tensor(index), "label": label}

        return self.reader.read(index, use, self.held_out)


class Examples(Dataset):
    """Captioned pictures and edits, a sample each.

    Items: "images" uint8 (P, 3, H, W): the result and, P = 2 as soon as any source holds edits, the picture to edit
    (black where there is none); "texts": one; "source" (1,): which picture is the one to edit, -1 for none; "target"
    (1,): which is the result; "noise" (1, draws, *latent_shape), "uniform" (1, draws), "drop" (1,): as of `ScenePairs`.
    """

    def __init__(
        self,
        reader: Reader,
        samples: int,
        size: int,
        latent_shape: tuple[int, int, int],
        draws: int,
        held_out: bool = False,
    ):
        for settings, source in zip(reader.data.sources, reader.sources, strict=True):
            if source.columns.kind == "pictures":
                raise ValueError(
                    f"{settings.path} has pictures without words; a diffusion stage needs captions or edits"
                )
        self.reader, self.samples, self.held_out = reader, samples, held_out
        self.size = checked_size(size, reader.data)
        self.latent_shape, self.draws = latent_shape, draws
        self.pictures = 2 if "edits" in reader.kinds else 1

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict:
        def use(row: Row) -> tuple[np.ndarray, str, np.random.Generator]:
            rng = _rng(self.reader, index, self.held_out)
            text = row.text(rng)
            return squares(row.open(), self.size, self.reader.data, rng, text), text, rng

        found, text, rng = self.reader.read(index, use, self.held_out)
        pictures = np.zeros((self.pictures, 3, self.size, self.size), np.uint8)
        pictures[: len(found)] = found[::-1]  # an edit's row is source, target
        uniform = (np.arange(self.draws) + rng.random((1, self.draws))) / self.draws
        noise = rng.standard_normal((1, self.draws, *self.latent_shape), dtype=np.float32)
        return {
            "images": torch.from_numpy(pictures),
            "texts": [text],
            "source": torch.tensor([1 if len(found) == 2 else -1]),
            "target": torch.tensor([0]),
            "noise": torch.from_numpy(noise),
            "uniform": torch.from_numpy(uniform).float(),
            "drop": torch.from_numpy(rng.random(1)).float(),
        }


def _rng(reader: Reader, index: int, held_out: bool) -> np.random.Generator:
    """A sample's own chance; made anew for every row that is tried, so that it depends on the sample alone."""
    return np.random.default_rng([*reader.key, int(held_out), index])
