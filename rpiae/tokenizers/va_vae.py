"""VA-VAE (f16, 32 channels): an autoencoder whose latent was aligned to DINOv2 in training (Yao et al. 2025), as
diffusers' AutoencoderKL.

Licence of the published weights: MIT (`hustvl/vavae-imagenet256-f16d32-dinov2`).
"""

import os

from diffusers import AutoencoderKL

from .base import KLTokenizer
from .ldm import ARCHITECTURE, latent_diffusion_name
from .published import Published

LATENT_CHANNELS = 32
PUBLISHED = Published(
    name="va-vae",
    hub_id="hustvl/vavae-imagenet256-f16d32-dinov2",
    file="vavae-imagenet256-f16d32-dinov2.pt",
    licence="MIT",
    latent_shape=(LATENT_CHANNELS, 16, 16),
    downsampling=16,
)
# In the file beside the autoencoder: the losses' networks, and what the latent was aligned by and to.
TRAINING_ONLY = ("loss.", "foundation_model.", "linear_proj.")
find = PUBLISHED.find


def build() -> AutoencoderKL:
    return AutoencoderKL(**ARCHITECTURE, latent_channels=LATENT_CHANNELS, scaling_factor=1.0)


def load(source: str | os.PathLike | None = None) -> KLTokenizer:
    """From the published .pt, a folder that holds it, "hf:org/name", "random" or, without a source, what is on this
    machine. Raises ValueError."""
    return KLTokenizer(*PUBLISHED.load(source, build, latent_diffusion_name, TRAINING_ONLY))
