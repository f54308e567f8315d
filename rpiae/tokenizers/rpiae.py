"""RPiAE, from any pipeline or tokenizer folder of this library, or from the authors' tokenizer file."""

import os
from pathlib import Path

import torch
from torch import Tensor

from ..autoencoder import AutoencoderRPiAE
from ..loading import CONFIG, read_json, resolve, source_name
from ..official import is_official
from .base import RANDOM, ModelTokenizer, TokenizerInfo, count_parameters

BUNDLED = Path(__file__).resolve().parents[2] / "assets" / "checkpoints" / "stickers-256"


class RPiAETokenizer(ModelTokenizer):
    def encode_(self, x: Tensor) -> Tensor:
        return self.model.encode(x).latent_dist.mode()

    def decode_(self, z: Tensor) -> Tensor:
        return self.model.decode(z).sample


def find() -> Path | None:
    """The bundled checkpoint, where it is there."""
    return BUNDLED if (BUNDLED / "vae" / CONFIG).is_file() else None


def load(source: str | os.PathLike | None = None) -> RPiAETokenizer:
    """From a folder, "hf:org/name", the authors' .pt, "random" (of the bundled checkpoint's sizes) or, without a
    source, the bundled checkpoint. Raises ValueError for what is missing, damaged or foreign."""
    if source not in (None, RANDOM) and is_official(source):
        return wrap(AutoencoderRPiAE.from_official(source), source_name(source), "not stated")
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
        model, origin = _with_random_weights(home), "random weights"
    else:
        model, origin = AutoencoderRPiAE.from_pretrained(home), source_name(source or folder)
    return wrap(model, origin, licence(folder))


def tokenizer_home(folder: Path) -> Path:
    """Where the tokenizer lies in a pipeline's folder, or in its own."""
    return folder / "vae" if (folder / "vae" / CONFIG).is_file() else folder


def wrap(model: AutoencoderRPiAE, origin: str, licence: str) -> RPiAETokenizer:
    """A loaded model as a tokenizer; `origin`: where its weights are from, in words for people."""
    side = model.config.image_size
    info = TokenizerInfo(
        name="rpiae",
        latent_shape=tuple(model.latent_shape),
        downsampling=side // model.latent_shape[1],
        parameters=count_parameters(model),
        source=origin,
        licence=licence,
        image_size=side,
    )
    return RPiAETokenizer(model, info)


def _with_random_weights(home: Path) -> AutoencoderRPiAE:
    config = read_json(home / CONFIG, "an AutoencoderRPiAE")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoencoderRPiAE(**{key: value for key, value in config.items() if not key.startswith("_")})


def licence(folder: Path) -> str:
    """What the front matter of a folder's model card says, or "not stated"."""
    card = folder / "README.md"
    lines = card.read_text(encoding="utf-8").splitlines() if card.is_file() else []
    found = [line.removeprefix("license:").strip() for line in lines if line.startswith("license:")]
    return found[0] if found else "not stated"
