"""RPiAE, from any pipeline or tokenizer folder of this library, or from the authors' tokenizer file."""

import os
from functools import partial
from pathlib import Path

from ..autoencoder import AutoencoderRPiAE
from ..loading import CONFIG, build, resolve, source_name
from ..official import is_official
from .base import RANDOM, OwnTokenizer, with_random_weights

NAME = "rpiae"
BUNDLED = Path(__file__).resolve().parents[2] / "assets" / "checkpoints" / "stickers-256"


def find() -> Path | None:
    """The bundled checkpoint, where it is there."""
    return BUNDLED if (BUNDLED / "vae" / CONFIG).is_file() else None


def load(source: str | os.PathLike | None = None) -> OwnTokenizer:
    """From a folder, "hf:org/name", the authors' .pt, "random" (of the bundled checkpoint's sizes) or, without a
    source, the bundled checkpoint. Raises ValueError for what is missing, damaged or foreign."""
    if source not in (None, RANDOM) and is_official(source):
        return OwnTokenizer(AutoencoderRPiAE.from_official(source), NAME, source_name(source), "not stated")
    if source == RANDOM or source is None:
        folder = find()
        if folder is None:
            raise ValueError(
                "The bundled checkpoint is not there. Name another folder; `make checkpoint` makes one, in "
                "runs/stickers-256/checkpoint."
            )
    else:
        folder = resolve(source)
    home = tokenizer_home(folder)
    if source == RANDOM:
        model, origin = with_random_weights(partial(build, AutoencoderRPiAE, home)), "random weights"
    else:
        model, origin = AutoencoderRPiAE.from_pretrained(home), source_name(source or folder)
    return OwnTokenizer(model, NAME, origin, licence(folder))


def tokenizer_home(folder: Path) -> Path:
    """Where the tokenizer lies in a pipeline's folder, or in its own."""
    return folder / "vae" if (folder / "vae" / CONFIG).is_file() else folder


def licence(folder: Path) -> str:
    """What the front matter of a folder's model card says, or "not stated"."""
    card = folder / "README.md"
    lines = card.read_text(encoding="utf-8").splitlines() if card.is_file() else []
    found = [line.removeprefix("license:").strip() for line in lines if line.startswith("license:")]
    return found[0] if found else "not stated"
