"""The discriminator: heads on a frozen DINO judge, token by token, whether a picture is one or a reconstruction.

Pictures are (B, 3, H, W) in [-1, 1] in this file. (StyleGAN-T's discriminator, Sauer et al. 2023, as reference facts
(a) have it: ViT-S/8, spectral norm, DiffAug.)
"""

import math
from pathlib import Path

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from rpiae.encoder import IMAGENET_MEAN, IMAGENET_STD
from rpiae.loading import misfit, shapes

from .config import DinoSettings, DiscriminatorSettings

KERNEL = 9
NORM_EPS = 1e-6
# DiffAug moves pictures by up to this share of their side.
MOVES = 0.125
# Of DiffAug per picture: two moves, brightness, saturation, contrast.
DRAWS = 5
DRAWS_TAG = 90


class DinoFeatures(nn.Module):
    """Patch tokens after some blocks of a frozen vision transformer, those of the last one in front once more."""

    def __init__(self, settings: DinoSettings):
        super().__init__()
        self.settings = settings
        # Without a final norm: all tokens are taken inside.
        self.network = VisionTransformer(
            img_size=settings.input_size, patch_size=settings.patch_size, embed_dim=settings.hidden_size,
            depth=settings.num_layers, num_heads=settings.num_heads, num_classes=0, final_norm=False,
            weight_init="skip",
        )  # fmt: skip
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "DinoFeatures":
        return super().train(False)

    def load(self, path: Path) -> None:
        """DINO's weights from a .pth file. (The authors also set the biases of the keys to zero, which changes nothing:
        softmax does not see them.) ValueError when the file is not there or holds something else."""
        if not path.is_file():
            raise ValueError(
                f"the discriminator needs DINO's weights, and {str(path)!r} is not there: put the released "
                "discs/dino_vit_small_patch8_224.pth (hf:qihoo360/RPiAE) there, or name the file in "
                "stages.<stage>.discriminator.weights"
            )
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a foreign file fails in many ways
            raise ValueError(f"{path.name} is damaged, or no file of weights ({type(error).__name__})") from error
        found = {name: one for name, one in found.items() if not name.startswith(("norm.", "head."))}
        if faults := misfit(shapes(self.network.state_dict()), shapes(found)):
            raise ValueError(f"{path.name} does not hold the discriminator's network: {faults}")
        self.network.load_state_dict(found)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """(B, 3, H, W) → feature maps (B, width, tokens)."""
        size = (self.settings.input_size, self.settings.input_size)
        x = ((pictures.float() + 1) / 2 - self.mean) / self.std
        if x.shape[-2:] != size:
            x = F.interpolate(x, size=size, mode="bilinear")
        taps = list(self.settings.taps)
        found = self.network.forward_intermediates(x, indices=taps, output_fmt="NLC", intermediates_only=True)
        return [one.transpose(1, 2) for one in (found[-1], *found)]


def _conv(width: int, out: int, kernel: int) -> nn.Module:
    return spectral_norm(nn.Conv1d(width, out, kernel, padding=kernel // 2, padding_mode="circular"))


def _block(width: int, kernel: int) -> nn.Sequential:
    # The authors' batch norm over virtual batches of one picture is an instance norm.
    norm = nn.InstanceNorm1d(width, eps=NORM_EPS, affine=True)
    return nn.Sequential(_conv(width, width, kernel), norm, nn.LeakyReLU(0.2))


class Head(nn.Module):
    """Feature map (B, width, tokens) → a logit per token (B, tokens)."""

    def __init__(self, width: int):
        super().__init__()
        self.each = _block(width, 1)
        self.among = _block(width, KERNEL)
        self.out = _conv(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.each(x)
        return self.out((x + self.among(x)) / math.sqrt(2))[:, 0]


class Discriminator(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] → logits (B, heads * tokens), high for real ones. Only the heads learn."""

    def __init__(self, settings: DinoSettings):
        super().__init__()
        self.features = DinoFeatures(settings)
        self.heads = nn.ModuleList(Head(settings.hidden_size) for _ in range(len(settings.taps) + 1))

    @classmethod
    def from_file(cls, settings: DiscriminatorSettings) -> "Discriminator":
        """New heads on the DINO that the settings name."""
        discriminator = cls(settings.network)
        discriminator.features.load(settings.weights)
        return discriminator

    def forward(self, pictures: Tensor) -> Tensor:
        found = self.features(pictures)
        return torch.cat([head(one) for head, one in zip(self.heads, found, strict=True)], dim=1)


def quantised(pictures: Tensor) -> Tensor:
    """Clamped and rounded to 8 bits, as what is saved to a file."""
    return ((pictures.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def draws(index: Tensor, purpose: int, seed: int) -> Tensor:
    """DiffAug's uniform numbers (B, DRAWS) of pictures by their numbers; another purpose or seed draws others."""
    rngs = (np.random.default_rng([DRAWS_TAG, purpose, number, seed]) for number in index.tolist())
    return torch.from_numpy(np.stack([rng.random(DRAWS) for rng in rngs])).float()


def augmented(pictures: Tensor, uniform: Tensor) -> Tensor:
    """DiffAug (Zhao et al. 2020) without cutout: moved with zeros moving in, then brightness by up to 0.5, saturation
    times 0 to 2, contrast times 0.5 to 1.5. uniform: (B, DRAWS) in [0, 1)."""
    x = pictures.float()
    uniform = uniform.to(x.device)
    for dim in (2, 3):
        x = _moved(x, uniform[:, dim - 2], dim)
    brightness, saturation, contrast = (uniform[:, k].view(-1, 1, 1, 1) for k in (2, 3, 4))
    x = x + (brightness - 0.5)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (2 * saturation)
    middle = x.mean((1, 2, 3), keepdim=True)
    return middle + (x - middle) * (contrast + 0.5)


def _moved(x: Tensor, uniform: Tensor, dim: int) -> Tensor:
    """Each picture moved along one side by a whole number of pixels."""
    side = x.shape[dim]
    most = round(MOVES * side)
    steps = (uniform * (2 * most + 1)).floor().long() - most
    source = torch.arange(side, device=x.device) - steps[:, None]
    inside = (source >= 0) & (source < side)
    shape = (len(x), 1, side, 1) if dim == 2 else (len(x), 1, 1, side)
    taken = x.gather(dim, source.clamp(0, side - 1).view(shape).expand_as(x))
    return taken * inside.view(shape).to(x.dtype)
