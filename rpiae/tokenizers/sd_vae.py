"""SD-VAE (f8, 4 channels): the tokenizer of Stable Diffusion 1 and 2, diffusers' AutoencoderKL at its published size.

Licence of the published weights: MIT (`stabilityai/sd-vae-ft-mse` and `-ft-ema`).
"""

import os
import re

from diffusers import AutoencoderKL

from ..loading import WEIGHTS
from .base import KLTokenizer
from .published import Published

PUBLISHED = Published(
    name="sd-vae",
    hub_id="stabilityai/sd-vae-ft-mse",
    file=WEIGHTS,
    licence="MIT",
    latent_shape=(4, 32, 32),
    downsampling=8,
)
ARCHITECTURE = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 32,
}
# The weights were published under the attention layers' older names.
OLD = re.compile(r"(\.attentions\.\d+\.)(query|key|value|proj_attn)(?=\.)")
TODAY = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
find = PUBLISHED.find


def build() -> AutoencoderKL:
    return AutoencoderKL(**ARCHITECTURE, sample_size=256)


def load(source: str | os.PathLike | None = None) -> KLTokenizer:
    """From a diffusers folder or its weights file, "hf:org/name", "random" or, without a source, what is on this
    machine. Raises ValueError."""
    return KLTokenizer(*PUBLISHED.load(source, build, todays_name=_todays_name, config=ARCHITECTURE))


def _todays_name(name: str) -> str:
    return OLD.sub(lambda match: match[1] + TODAY[match[2]], name)
