"""Latents of a whole data set on disk, as float16, so that a diffusion transformer trains without its tokenizer.

    <folder>/settings.json                  the tokenizer and the pictures that they are of
    <folder>/part-0-of-1.npy, .json         latents (rows, 1 or 2, C, h, w), plain and flipped, and the rows' ids

Every process writes a part of its own. A part that is there is whole: a run that was stopped goes on with the others.
"""

import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from rpiae.autoencoder import AutoencoderRPiAE

from .data.crop import squares
from .data.reader import Reader
from .data.rows import Fault
from .states import write_whole

logger = logging.getLogger(__name__)

BATCH = 64


class Rows(Dataset):
    """Some rows of a reader's one source, cut to the tokenizer's size and not flipped: {"image", "id", "usable"}."""

    def __init__(self, reader: Reader, places: list[tuple[int, int]], size: int):
        self.source, self.places, self.size = reader.sources[0], places, size
        self.plain = reader.data.model_copy(update={"flip": False})

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> dict:
        try:
            row = self.source.row(*self.places[number])
            square = squares(row.open()[:1], self.size, self.plain, np.random.default_rng(0))[0]
        except Fault as fault:
            logger.warning("no latent: %s", fault)
            return {"image": torch.zeros(3, self.size, self.size, dtype=torch.uint8), "id": "", "usable": False}
        return {"image": torch.from_numpy(square), "id": row.id, "usable": True}


class LatentFolder:
    """The latents of a reader's class folders by a tokenizer, in a folder."""

    def __init__(self, folder: Path, reader: Reader, vae: AutoencoderRPiAE):
        data = reader.data
        if len(reader.sources) > 1 or data.crop != "center":
            raise ValueError('latents on disk are for one source with crop "center"; leave latents= out')
        self.folder, self.reader, self.vae = Path(folder), reader, vae
        self.identity = {
            "tokenizer": fingerprint(vae), "image_size": vae.config.image_size, "flip": data.flip,
            "pictures": hashlib.sha256("\n".join(reader.sources[0].names()).encode()).hexdigest(),
        }  # fmt: skip
        self._names: np.ndarray | None = None

    def write(self, workers: int = 0, precision: str = "no") -> None:
        """Write what is missing; all processes together. ValueError when the folder holds other latents."""
        state = PartialState()
        file = self.folder / "settings.json"
        with state.main_process_first():
            self.folder.mkdir(parents=True, exist_ok=True)
            if not file.is_file():
                write_whole(file, json.dumps(self.identity, indent=1) + "\n")
        self._check()
        if not self._complete():
            self._write_part(state.process_index, state.num_processes, workers, precision)
        state.wait_for_everyone()

    def latent(self, name: str, flipped: bool) -> torch.Tensor:
        """Of one picture, float32 (C, h, w); a `Fault` when it has none."""
        if self._names is None:
            self._open()
        wanted = name.encode()
        place = int(np.searchsorted(self._names, wanted))
        if place == len(self._names) or self._names[place] != wanted:
            raise Fault("no latent", f"{name} has no latent in {self.folder.name}")
        part, row = self._places[place]
        return torch.from_numpy(self._parts[part][row, int(flipped)].astype(np.float32))

    def _check(self) -> None:
        theirs = json.loads((self.folder / "settings.json").read_text(encoding="utf-8"))
        other = sorted(key for key in self.identity if theirs.get(key) != self.identity[key])
        if other:
            raise ValueError(
                f"{self.folder} holds other latents (not the same: {', '.join(other)}): remove the folder, or choose "
                "another with latents="
            )

    def _finished(self) -> list[Path]:
        return sorted(path.with_suffix(".npy") for path in self.folder.glob("part-*.json"))

    def _complete(self) -> bool:
        """Whether all parts of one way to share the pictures out are there."""
        counts: dict[str, int] = {}
        for path in self._finished():
            total = path.stem.rpartition("-")[2]
            counts[total] = counts.get(total, 0) + 1
        return any(count == int(total) for total, count in counts.items())

    def _write_part(self, number: int, total: int, workers: int, precision: str) -> None:
        path = self.folder / f"part-{number}-of-{total}.npy"
        if path in self._finished():
            return
        sizes = self.reader.sources[0].sizes
        places = [(chunk, row) for chunk, size in enumerate(sizes) for row in range(size)]
        own = places[len(places) * number // total : len(places) * (number + 1) // total]
        shape = (len(own), 1 + self.reader.data.flip, *self.vae.latent_shape)
        latents = np.lib.format.open_memmap(path, "w+", np.float16, shape)
        rows = Rows(self.reader, own, self.vae.config.image_size)
        names: list[str] = []
        loader = DataLoader(rows, BATCH, num_workers=workers)
        for batch in tqdm(loader, desc="latents", unit="batch", disable=number > 0):
            usable = batch["usable"]
            found = self._encode(batch["image"][usable], shape[1], precision)
            latents[len(names) : len(names) + len(found)] = found
            names += [name for name in batch["id"] if name]
        latents.flush()
        write_whole(path.with_suffix(".json"), json.dumps(names))

    @torch.no_grad()
    def _encode(self, pictures: torch.Tensor, variants: int, precision: str) -> np.ndarray:
        x = pictures.to(self.vae.device).float() / 255
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            both = (self.vae.encode(one).latent_dist.mode() for one in (x, x.flip(-1))[:variants])
            return torch.stack(list(both), dim=1).half().cpu().numpy()

    def _open(self) -> None:
        """Names in order, and part and row of each, as arrays: every process that loads data has them."""
        names, places, self._parts = [], [], []
        for number, path in enumerate(self._finished()):
            self._parts.append(np.load(path, mmap_mode="r"))
            own = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            names += [name.encode() for name in own]
            places += [(number, row) for row in range(len(own))]
        listed = np.array(names, dtype=np.bytes_)
        order = listed.argsort(kind="stable")
        self._names, self._places = listed[order], np.array(places, dtype=np.int64).reshape(-1, 2)[order]


def fingerprint(vae: AutoencoderRPiAE) -> str:
    """SHA-256 of what makes the latents: encoder and bridge."""
    digest = hashlib.sha256()
    for part in (vae.encoder, vae.bridge):
        for name, tensor in part.state_dict().items() if part is not None else ():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
