"""gFID, sFID, IS, precision and recall of generated pictures against one of ADM's reference batches, in torch.

    python -m train measure-samples samples.npz VIRTUAL_imagenet256_labeled.npz

Samples are an .npz with arr_0 (n, H, W, 3) uint8, as ADM's evaluator takes it, or a folder of pictures. The reference
is an .npz with the real pictures' statistics (mu, sigma, of spatial features mu_s, sigma_s), the pictures (arr_0) or
both, as ADM's have it.
"""

import argparse
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from . import features, results
from .features import FeatureSpace, collect
from .folder import PictureFolder
from .frechet import Statistics, frechet_distance, inception_score, precision_recall, statistics

PICTURES = "arr_0"
STATISTICS = (("mu", "sigma"), ("mu_s", "sigma_s"))  # of pooled features, of spatial ones
ARRAY_BEGINS, ZIP_BEGINS = b"\x93NUMPY", b"PK"  # files of one array, and archives of several
PROTOCOL = 50_000  # pictures of a published number


class PictureArchive:
    """The pictures of an .npz as batches, uint8 (B, 3, H, W), read one by one: 50,000 of them take 10 GB."""

    def __init__(self, path: Path, batch: int):
        self.path, self.batch = Path(path), batch
        check_archive(self.path)
        with self._open() as stream:
            self.shape, self.dtype = self._header(stream)
        if self.dtype != np.uint8 or len(self.shape) != 4 or self.shape[-1] != 3:
            raise ValueError(
                f"{self.path.name} should hold {PICTURES} of uint8 (n, H, W, 3), it is {self.dtype} {self.shape}"
            )
        if not len(self):
            raise ValueError(f"{self.path.name} holds no pictures: its {PICTURES} is empty")

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        size = int(np.prod(self.shape[1:]))
        with self._open() as stream:
            self._header(stream)
            for start in range(0, len(self), self.batch):
                count = min(self.batch, len(self) - start)
                data = stream.read(count * size)
                if len(data) != count * size:
                    raise ValueError(f"{self.path.name} is cut off after {start} pictures")
                pictures = np.frombuffer(data, np.uint8).reshape(count, *self.shape[1:])
                yield rearrange(torch.from_numpy(pictures.copy()), "b h w c -> b c h w")

    def _open(self):
        try:
            return zipfile.ZipFile(self.path).open(f"{PICTURES}.npy")
        except (OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"{self.path.name} is damaged ({error})") from error
        except KeyError:
            raise ValueError(f"{self.path.name} holds no pictures ({PICTURES})") from None

    @staticmethod
    def _header(stream) -> tuple[tuple[int, ...], np.dtype]:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        return shape, dtype


def check_archive(path: Path) -> None:
    """ValueError for what is no whole .npz file, each kind in its own words."""
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder, wanted is an .npz file")
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}")
    if zipfile.is_zipfile(path):
        return
    with open(path, "rb") as stream:
        begins = stream.read(len(ARRAY_BEGINS))
    if begins == ARRAY_BEGINS:
        raise ValueError(f"{path.name} is an .npy file, one array without a name; wanted is an .npz (numpy.savez)")
    if begins.startswith(ZIP_BEGINS):
        raise ValueError(f"{path.name} is cut off or damaged; fetch or make it again")
    raise ValueError(f"{path.name} is no .npz file")


def open_samples(source: Path, batch: int) -> tuple[Iterator[Tensor], int]:
    """Batches of the pictures of an .npz or a folder, which must be of one size, and how many there are."""
    if Path(source).is_dir():
        sizes = {size_of(path): path.name for path in PictureFolder(source, size=1).paths}
        (width, height), *others = sizes
        if others or width != height:
            told = ", ".join(f"{name} {one[0]}x{one[1]}" for one, name in list(sizes.items())[:3])
            raise ValueError(f"samples should all be square and of one size, these are not: {told}")
        folder = PictureFolder(source, size=width)
        return iter(folder.batches(batch)), len(folder)
    if not Path(source).is_file():
        raise ValueError(f"there is no file or folder {str(source)!r}")
    archive = PictureArchive(source, batch)
    return iter(archive), len(archive)


def size_of(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as picture:
            return picture.size
    except OSError as error:
        raise ValueError(f"{path.name} is no picture that can be read ({error})") from error


@dataclass(frozen=True)
class Reference:
    """What an .npz of real pictures holds: statistics of their Inception features, pictures, or both."""

    path: Path
    statistics: Statistics | None
    has_pictures: bool
    spatial: Statistics | None = None


def open_reference(path: Path) -> Reference:
    check_archive(Path(path))
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = set(archive.files)
            known, spatial = (
                Statistics(*(archive[name].astype(np.float64) for name in pair)) if set(pair) <= names else None
                for pair in STATISTICS
            )
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"the reference {Path(path).name} is damaged ({error})") from error
    if known is None and PICTURES not in names:
        raise ValueError(f"the reference {Path(path).name} holds neither mu and sigma nor {PICTURES}")
    return Reference(Path(path), known, PICTURES in names, spatial)


def measure(samples: Path, reference: Path, space: FeatureSpace, stored: bool = True, batch: int = 32) -> dict:
    """One row of a table; `stored`: use the reference's own statistics where it has some."""
    real = open_reference(reference)
    known, spatial = (real.statistics, real.spatial) if stored else (None, None)
    if known is None and not real.has_pictures:
        raise ValueError(
            f"{real.path.name} has statistics of Inception's features only; {space.name} needs its pictures"
        )
    pictures = PictureArchive(reference, batch) if real.has_pictures else None
    batches, count = open_samples(samples, batch)
    made = collect(space, batches, count, "samples")
    row = {"feature space": space.name, "samples": count}
    row |= {"reference": real.path.name, "reference pictures": len(pictures) if pictures else None}
    row |= dict.fromkeys(("inception score", "inception score std", "precision", "recall", "sfid", "sfid against"))
    row["gfid against"] = "statistics" if known else "pictures"
    if made.logits is not None:
        row["inception score"], row["inception score std"] = inception_score(made.logits)
    if made.spatial is not None and (spatial or pictures):
        row["sfid against"] = "statistics" if spatial else "pictures"
    if pictures:
        theirs = collect(space, pictures, len(pictures), "reference")
        row["precision"], row["recall"] = precision_recall(made.pooled, theirs.pooled)
        known = known or statistics(theirs.pooled)
        if theirs.spatial is not None:
            spatial = spatial or statistics(theirs.spatial)
    row["gfid"] = frechet_distance(statistics(made.pooled), known)
    if row["sfid against"]:
        row["sfid"] = frechet_distance(statistics(made.spatial), spatial)
    return row


def markdown(row: dict) -> str:
    head = ["samples", "reference", "feature space", "gFID", "sFID", "IS", "precision", "recall"]
    forms = {"gfid": ".3f", "sfid": ".3f", "inception score": ".1f", "precision": ".3f", "recall": ".3f"}
    cells = [str(row["samples"]), row["reference"], row["feature space"]]
    cells += ["-" if row[name] is None else format(row[name], form) for name, form in forms.items()]
    lines = ["| " + " | ".join(line) + " |" for line in (head, ["---:"] * len(head), cells)]
    notes = [_against(row)]
    if row["samples"] != PROTOCOL:
        notes.append(f"Published numbers are of {PROTOCOL:,} samples; fewer raise gFID.")
    return "\n\n".join(["\n".join(lines), *notes])


def _against(row: dict) -> str:
    """What of the reference each number is against: its statistics may be of more pictures than it holds."""
    sides = {"gFID": row["gfid against"], "sFID": row["sfid against"]}
    sides |= dict.fromkeys(("precision", "recall"), "pictures" if row["reference pictures"] else None)
    told = {"statistics": "the reference's own statistics", "pictures": f"its {row['reference pictures']} pictures"}
    found = {one: [name for name, side in sides.items() if side == one] for one in told}
    return "; ".join(f"{', '.join(names)}: against {told[one]}" for one, names in found.items() if names) + "."


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m train measure-samples", description="gFID, sFID, IS, precision and recall."
    )
    parser.add_argument("samples", type=Path, help="an .npz with arr_0, or a folder of pictures")
    parser.add_argument("reference", type=Path, help="an .npz with mu and sigma, arr_0, or both")
    features.add_options(parser)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--out", type=Path, help="write the row there as JSON too")
    options = parser.parse_args(arguments)
    if options.out:
        results.make_room(options.out)
    is_inception = options.features == "inception"  # references' statistics are of its features
    space = features.asked_for(options)
    row = measure(options.samples, options.reference, space, stored=is_inception, batch=options.batch)
    print(markdown(row))
    if options.out:
        results.write(options.out, row)
