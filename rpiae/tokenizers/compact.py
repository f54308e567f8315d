"""Compact tokenizers of the equal-budget study (`python -m train study`): one small network each, all of one size, that
learned as SD-VAE, VA-VAE, a VQGAN, RAE, FAE or RPiAE do.

They are the study's own: the names of the published tokenizers say whose idea each follows, not whose weights it has.
Folders `assets/tokenizers/compact-*`, written by `python -m train study CONFIG --export`: the tokenizer in `vae`
and, with `--generators`, the study's generator on its latents beside it, which makes a pipeline's folder
(`rpiae.tokenizers.drawing`).
"""

import os
import warnings
from pathlib import Path

import torch
from diffusers.configuration_utils import register_to_config
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn
from torch.nn import functional as F

from ..autoencoder import AutoencoderRPiAE
from ..bridge import Posterior, VariationalBridge
from ..loading import CONFIG, read_json, resolve, source_name
from . import COMPACT, published
from .base import RANDOM, OwnTokenizer
from .rpiae import licence, tokenizer_home

SOURCE = "compact, trained here for the study"
FIT_ROUNDS = 10  # of k-means, when a codebook starts


class CodebookBridge(nn.Module):
    """Feature map (B, F, h, w) → code vectors (B, C, s h, s w) → feature map: a bridge through a codebook.

    Each cell of the feature map becomes s x s codes, to which its channels are dealt in turn: the first ones, which say
    most after a linear start, are not all one code's. Gradients pass the choice of a code as if it were not there.

    Args:
        codes, code_width: the codebook, (codes, C).
        split: s.
        bridge_config: arguments of the `VariationalBridge` whose mean is brought to the codes (without channels).
    """

    def __init__(self, feature_channels: int, codes: int, code_width: int, split: int, **bridge_config):
        super().__init__()
        self.split = split
        self.latent_channels = code_width
        self.bridge = VariationalBridge(feature_channels, code_width * split**2, **bridge_config)
        self.codebook = nn.Embedding(codes, code_width)

    def before_codes(self, feature_map: Tensor) -> Tensor:
        """Feature map → what is brought to the nearest codes, (B, C, s h, s w)."""
        return F.pixel_shuffle(self.bridge.encode(feature_map).mean, self.split)

    def nearest(self, values: Tensor) -> Tensor:
        """(B, C, h, w) → the nearest codes' numbers (B, h, w). In float32: half precision confuses neighbours."""
        cells = values.float().movedim(1, -1)
        distances = torch.cdist(cells.flatten(0, 2), self.codebook.weight.float())
        return distances.argmin(-1).view(cells.shape[:-1])

    def to_codes(self, values: Tensor) -> Tensor:
        """(B, C, h, w) → the nearest codes themselves."""
        return self.codebook(self.nearest(values.detach())).movedim(-1, 1)

    def encode(self, feature_map: Tensor) -> Posterior:
        values = self.before_codes(feature_map)
        codes = self.to_codes(values)
        if values.requires_grad:
            codes = values + (codes - values).detach()
        return Posterior(codes, torch.full_like(codes, -30.0))

    def decode(self, latent: Tensor) -> Tensor:
        """Latents need not be codes: what a diffusion model draws is brought to the nearest ones first."""
        codes = self.to_codes(latent).to(latent.dtype)
        if latent.requires_grad:
            codes = latent + (codes - latent).detach()
        return self.bridge.decode(F.pixel_unshuffle(codes, self.split))

    @torch.no_grad()
    def fit_codes(self, feature_map: Tensor) -> None:
        """Codes from a few rounds of k-means on what the encoder gives now, from far apart starts (k-means++)."""
        points = self.before_codes(feature_map).float().movedim(1, -1).flatten(0, 2).cpu().double().numpy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of codes that are nobody's: they stay where they began
            centres, _ = kmeans2(points, len(self.codebook.weight), iter=FIT_ROUNDS, minit="++", rng=0)
        self.codebook.weight.copy_(torch.from_numpy(centres))


class AutoencoderCodebook(AutoencoderRPiAE):
    """The same autoencoder with a codebook in place of the variational bridge.

    Args:
        bridge_config: arguments of `CodebookBridge` (without feature_channels).
        others: as of AutoencoderRPiAE.
    """

    @register_to_config
    def __init__(
        self,
        encoder_config: dict,
        decoder_config: dict,
        bridge_config: dict,
        image_size: int = 256,
        latents_mean: list | None = None,
        latents_scale: list | None = None,
    ):
        super().__init__(encoder_config, decoder_config, None, image_size)
        self.register_to_config(bridge_config=bridge_config, latents_mean=latents_mean, latents_scale=latents_scale)
        self.bridge = CodebookBridge(self.encoder.feature_channels, **bridge_config)
        self._check_latent_constants()

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = self.bridge.split * self.config.image_size // self.encoder.downsampling
        return (self.bridge.latent_channels, side, side)


CLASSES = {one.__name__: one for one in (AutoencoderRPiAE, AutoencoderCodebook)}


def names() -> list[str]:
    """Of all that are in assets/tokenizers, in alphabetical order."""
    return sorted(file.parents[1].name for file in published.ASSETS.glob(f"{COMPACT}*/vae/{CONFIG}"))


def open_model(folder: str | os.PathLike) -> AutoencoderRPiAE:
    """The autoencoder of a folder, of the class that its config.json names, in float32. Raises ValueError."""
    folder = Path(folder)
    name = read_json(folder / CONFIG, "a compact tokenizer").get("_class_name")
    if name not in CLASSES:
        raise ValueError(f"{folder.name} holds a {name}; a compact tokenizer is one of {', '.join(CLASSES)}")
    return CLASSES[name].from_pretrained(folder)


def load(name: str, source: str | os.PathLike | None = None) -> OwnTokenizer:
    """By its name, from assets/tokenizers or from `source`, a pipeline's folder or the tokenizer's. Raises
    ValueError."""
    if source == RANDOM:
        raise ValueError(f"{name} has no random weights: it is the study's own, of the size that was trained.")
    if source is None and name not in names():
        here = ", ".join(names()) or "none"
        raise ValueError(f"There is no compact tokenizer {name!r} on this machine; there are: {here}.")
    folder, origin = (published.ASSETS / name, SOURCE) if source is None else (resolve(source), source_name(source))
    model = open_model(tokenizer_home(folder))
    codes = len(model.bridge.codebook.weight) if isinstance(model, AutoencoderCodebook) else None
    return OwnTokenizer(model, name, origin, licence(folder), codes)
