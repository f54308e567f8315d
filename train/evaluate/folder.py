"""rFID, PSNR, SSIM and LPIPS of tokenizers on a folder of pictures, by the protocol of RAE and RPiAE.

    python -m train measure-reconstruction imagenet/val --tokenizer rpiae=hf:qihoo360/RPiAE --tokenizer sd-vae

Pictures are cropped as ADM does; reconstructions are clamped and cut (not rounded) to 8 bits before anything is
measured; PSNR and SSIM are means over pictures.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from rpiae import metrics
from rpiae.tokenizers import NAMES, Tokenizer, load

from ..data.crop import adm_center_crop
from ..data.folders import ENDINGS
from ..runtime import device
from . import features, results
from .features import Features, FeatureSpace, joined
from .frechet import frechet_distance, statistics

# Rows alike in these are of one measurement, and the later one counts.
QUESTION = ("asked for", "folder", "image size", "pictures", "feature space", "lpips net")


class PictureFolder(Dataset):
    """All pictures under a folder in the order of their paths, cropped: uint8 (3, size, size). Read as ADM reads them,
    without a look at EXIF."""

    def __init__(self, folder: Path, size: int, limit: int | None = None):
        if not Path(folder).is_dir():
            raise ValueError(f"there is no folder {str(folder)!r}")
        found = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in ENDINGS)
        if not found:
            raise ValueError(f"the folder {str(folder)!r} holds no pictures ({', '.join(ENDINGS)})")
        self.folder, self.paths, self.size = Path(folder).resolve(), found[:limit], size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        path = self.paths[index]
        try:
            picture = adm_center_crop(Image.open(path).convert("RGB"), self.size)
        except (OSError, UnidentifiedImageError, SyntaxError) as error:
            raise ValueError(f"{path.name} is no picture that can be read ({error})") from error
        return rearrange(torch.from_numpy(np.array(picture)), "h w c -> c h w")

    def batches(self, size: int, workers: int = 0) -> DataLoader:
        return DataLoader(self, batch_size=size, num_workers=workers)


def measure(
    tokenizer: Tokenizer,
    pictures: PictureFolder,
    space: FeatureSpace | None,
    batch: int = 16,
    workers: int = 0,
    lpips: str = "vgg",
) -> dict:
    """One row of a table. Without a feature space there is no rFID; without its weights no LPIPS, and the reason."""
    values: dict[str, list[float]] = {"psnr": [], "ssim": [], "lpips": []}
    seen: list[Features] = []
    made: list[Features] = []
    missing = None
    with tqdm(total=len(pictures), desc=tokenizer.info.name, unit="picture", leave=False) as bar:
        for original in pictures.batches(batch, workers):
            x = original.float() / 255
            reconstruction = (tokenizer.decode(tokenizer.encode(x)) * 255).to(torch.uint8)  # cut, as the authors do
            y = reconstruction.float() / 255
            x = x.to(y.device)
            values["psnr"] += metrics.psnr(x, y).tolist()
            values["ssim"] += metrics.ssim(x, y).tolist()
            distance, missing = metrics.lpips(x, y, lpips)
            values["lpips"] += [] if distance is None else distance.tolist()
            if space is not None:
                seen.append(space(original))
                made.append(space(reconstruction))
            bar.update(len(original))
    info = tokenizer.info
    row = {"tokenizer": info.name, "source": info.source, "folder": str(pictures.folder)}
    row |= {"image size": pictures.size, "pictures": len(pictures)}
    row |= {name: float(np.mean(numbers)) if numbers else None for name, numbers in values.items()}
    row |= {"lpips net": lpips, "lpips missing": missing, "feature space": space.name if space else None, "rfid": None}
    if space is not None:
        distance = frechet_distance(*(statistics(joined(side).pooled) for side in (made, seen)))
        row["rfid"] = distance
    return row


def markdown(rows: list[dict]) -> str:
    """The rows as one table, with the feature space and LPIPS net that its columns are of. Where tokenizers work at
    different sizes it says that they saw different pixels."""
    first = rows[0]
    space = first["feature space"] or "none"
    lines = [
        f"| tokenizer | source | pixels | pictures | rFID ({space}) | PSNR | SSIM | LPIPS ({first['lpips net']}) |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        numbers = [(row["rfid"], ".3f"), (row["psnr"], ".2f"), (row["ssim"], ".3f"), (row["lpips"], ".3f")]
        size = row["image size"]
        cells = [row["tokenizer"], row["source"], f"{size} x {size}", str(row["pictures"])]
        cells += ["-" if value is None else format(value, form) for value, form in numbers]
        lines.append("| " + " | ".join(cells) + " |")
    notes = {row["lpips missing"] for row in rows if row["lpips missing"]}
    if len({row["image size"] for row in rows}) > 1:
        notes.add("Each tokenizer saw the pictures at its own size: compare rows of one size only.")
    return "\n".join([*lines, *(f"\n{note}" for note in sorted(notes))])


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m train measure-reconstruction", description="rFID, PSNR, SSIM, LPIPS."
    )
    parser.add_argument("folder", type=Path, help="pictures, also in folders inside")
    parser.add_argument(
        "--tokenizer", action="append", required=True, help=f"one of {', '.join(NAMES)}, or NAME=SOURCE; repeatable"
    )
    features.add_options(parser, "none")
    parser.add_argument("--lpips", default="vgg", choices=list(metrics.LPIPS_BACKBONES))
    parser.add_argument("--limit", type=int, help="only the first pictures")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=0, help="processes that read pictures")
    parser.add_argument("--out", type=Path, help="write the rows there as JSON too")
    options = parser.parse_args(arguments)
    _measure_all(options)


def _measure_all(options: argparse.Namespace) -> None:
    """The tokenizers one after the other. Mistakes show before the first is measured, and what was measured is shown
    and kept whatever happens to a later one."""
    if options.out:
        results.make_room(options.out)
        results.read(options.out)  # what is no table is told now
    space = None if options.features == "none" else features.asked_for(options)
    PictureFolder(options.folder, size=1)
    for entry in options.tokenizer[1:]:  # the first shows its own at once
        _load(entry)
    rows = []
    try:
        for entry in options.tokenizer:
            tokenizer = _load(entry).to(device())
            pictures = PictureFolder(options.folder, tokenizer.info.image_size, options.limit)
            row = measure(tokenizer, pictures, space, options.batch, options.workers, options.lpips)
            rows.append({"asked for": entry} | row)
            if options.out:
                results.write(options.out, results.renewed(results.read(options.out), rows, QUESTION))
    finally:
        if rows:
            print(markdown(rows))


def _load(entry: str) -> Tokenizer:
    """By its name, or NAME=SOURCE."""
    name, _, source = entry.partition("=")
    return load(name, source or None)
