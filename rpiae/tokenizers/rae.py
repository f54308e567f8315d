"""RAE-S and RAE-B: a frozen DINOv2 with registers (small or base) and a ViT-XL pixel decoder (Zheng et al. 2025), as
diffusers' AutoencoderRAE.

Its own `from_pretrained` (0.42.1) only warns where the encoder's attention has the names of transformers 4, as the
published files have it, and leaves it random; here the names are translated and anything missing is an error.
Licence of the published weights: MIT (RAE's repository).
"""

import os
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderRAE
from torch import Tensor

from ..loading import WEIGHTS
from ..official_layout import TOKENIZER_NAMES
from .base import RANDOM, ModelTokenizer, with_random_weights
from .published import Published, check_config, empty, fill, read_weights

ARCHITECTURE = {
    "encoder_type": "dinov2",
    "encoder_patch_size": 14,
    "encoder_num_hidden_layers": 12,
    "encoder_input_size": 224,
    "decoder_hidden_size": 1152,
    "decoder_num_hidden_layers": 28,
    "decoder_num_attention_heads": 16,
    "decoder_intermediate_size": 4096,
    "patch_size": 16,
    "image_size": 256,
}
WIDTHS = {"rae-s": 384, "rae-b": 768}
# Of transformers 4 and of the RAE authors' decoder → today's.
ENCODER_NAMES = {old: new for new, old in TOKENIZER_NAMES["encoder."][1:]}
DECODER_NAMES = {
    ".attention.attention.query.": ".attention.to_q.",
    ".attention.attention.key.": ".attention.to_k.",
    ".attention.attention.value.": ".attention.to_v.",
    ".attention.output.dense.": ".attention.to_out.0.",
}
# Constants of every position, whose shape only the file tells.
STATISTICS = "_latents_mean"
POSITIONS = "decoder.decoder_pos_embed"


class RAETokenizer(ModelTokenizer):
    """The feature map, normalised by the checkpoint's own statistics as diffusers' and the authors' `encode` do."""

    def encode_(self, x: Tensor) -> Tensor:
        return self.model.encode(x).latent

    def decode_(self, z: Tensor) -> Tensor:
        return self.model.decode(z).sample


class RAE:
    """One size, with the `find` and `load` of a tokenizer's module."""

    def __init__(self, name: str, hub_id: str):
        self.PUBLISHED = Published(
            name, hub_id, WEIGHTS, licence="MIT", latent_shape=(WIDTHS[name], 16, 16), downsampling=16
        )
        self.find = self.PUBLISHED.find

    def settings(self) -> dict:
        return ARCHITECTURE | {"encoder_hidden_size": WIDTHS[self.PUBLISHED.name]}

    def build(self, statistics: tuple[int, ...] = (1,)) -> AutoencoderRAE:
        """The model, with constants of the shape `statistics` that change nothing."""
        model = AutoencoderRAE(**self.settings())
        model._latents_mean, model._latents_std = torch.zeros(statistics), torch.ones(statistics)
        return model

    def load(self, source: str | os.PathLike | None = None) -> RAETokenizer:
        """From a diffusers folder or its safetensors file, "hf:org/name", "random" or, without a source, what is on
        this machine. Raises ValueError."""
        if source == RANDOM:
            model, origin = with_random_weights(self.build), "random weights"
        else:
            path, origin = self.PUBLISHED.locate(source)
            check_config(path, AutoencoderRAE, self.settings(), self.PUBLISHED.name)
            model = self._read(path)
        return RAETokenizer(model, self.PUBLISHED.info(model, origin))

    def _read(self, path: Path) -> AutoencoderRAE:
        name = self.PUBLISHED.name
        weights = {todays_name(one): tensor for one, tensor in read_weights(path).items()}
        shape = tuple(weights[STATISTICS].shape) if STATISTICS in weights else (1,)
        if not _for_each(shape, self.PUBLISHED.latent_shape):
            raise ValueError(
                f"{path.name} does not fit the {name} tokenizer: its statistics are of shape {shape}, so it is of "
                f"another encoder or of pictures that are not {self.PUBLISHED.image_size} px"
            )
        model = empty(partial(self.build, shape))
        positions = weights.pop(POSITIONS, None)
        if positions is not None and not _alike(positions, model.decoder.decoder_pos_embed):
            raise ValueError(f"{path.name} does not fit the {name} tokenizer: {POSITIONS} is not the fixed sine table")
        return fill(model, weights, path, name)


def todays_name(name: str) -> str:
    """A tensor's name in transformers 5 and diffusers, also from a file of transformers 4 and the authors' decoder."""
    table = ENCODER_NAMES if name.startswith("encoder.") else DECODER_NAMES
    for old, new in table.items():
        name = name.replace(old, new)
    return name


def _for_each(statistics: tuple[int, ...], latent: tuple[int, int, int]) -> bool:
    """Whether statistics are one number, one for each channel, or one for each number of a latent (C, h, w)."""
    return statistics in ((1,), (), (latent[0], 1, 1), latent, (1, latent[0], 1, 1), (1, *latent))


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.numel() == other.numel() and torch.allclose(one.float().flatten(), other.flatten(), atol=1e-4)


SMALL = RAE("rae-s", "nyu-visionx/RAE-dinov2-wReg-small-ViTXL-n08")
BASE = RAE("rae-b", "nyu-visionx/RAE-dinov2-wReg-base-ViTXL-n08")
