"""Pictures by class for ADM's evaluation: which labels, and the .npz that it reads."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from .painting import Item
from .samples import PICTURES as ARCHIVED


def classes(count: int, num_classes: int, out: Path, seed: int = 0) -> list[Item]:
    """`<out>/<6 digits>.png`: each class count / num_classes times, the first ones once more where that leaves a rest.

    In the authors' order for this seed: ADM takes the Inception Score of consecutive 5,000s, which should each show all
    classes.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    labels = (torch.arange(count) % num_classes).sort().values[order].tolist()
    return [Item(out / f"{index:06d}.png", f"{index:06d}", label, (0,)) for index, label in enumerate(labels)]


def cut(pictures: Tensor) -> list[Image.Image]:
    """Pictures (B, 3, H, W) in [0, 1], cut to 8 bits and not rounded, as the authors do before they measure."""
    pixels = rearrange((pictures * 255).to(torch.uint8), "b c h w -> b h w c").cpu().numpy()
    return [Image.fromarray(one) for one in pixels]


def archive(items: Sequence[Item], file: Path) -> None:
    """The pictures as ADM's sampler leaves them: an .npz with arr_0, uint8 (n, H, W, 3), and the labels as arr_1.

    Whole or not at all, and from picture to picture: 50,000 of them take 10 GB.
    """
    shape = np.asarray(Image.open(items[0].file)).shape
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(items), *shape)}
    part = file.with_name(f".{file.stem}-{uuid4().hex}.part")
    try:
        with zipfile.ZipFile(part, "w") as parts:
            with parts.open(f"{ARCHIVED}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array_header_1_0(stream, header)
                for item in tqdm(items, desc=file.name, unit="picture"):
                    pixels = np.asarray(Image.open(item.file))
                    if pixels.shape != shape:
                        raise ValueError(f"{item.file} is {pixels.shape}, the first {shape}: remove it and run again")
                    stream.write(pixels.tobytes())
            with parts.open("arr_1.npy", "w") as stream:
                np.lib.format.write_array(stream, np.array([item.prompt for item in items], dtype=np.int64))
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
