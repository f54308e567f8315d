"""SD-VAE (f8, 4 channels): the tokenizer of Stable Diffusion 1 and 2, diffusers' AutoencoderKL at its
published size.

Licence of the published weights: MIT (`stabilityai/sd-vae-ft-mse` and `-ft-ema`).
"""

import os
import re
import textwrap
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..loading import CONFIG, HUB_PREFIX, WEIGHTS, read_json, resolve
from .base import RANDOM, ModelTokenizer, TokenizerInfo, count_parameters

HUB_ID = "stabilityai/sd-vae-ft-mse"
FOLDER = Path(__file__).resolve().parents[2] / "assets" / "tokenizers" / "sd-vae"
IMAGE_SIZE = 256
DOWNSAMPLING = 8
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
LEGACY = re.compile(r"(\.attentions\.\d+\.)(query|key|value|proj_attn)(?=\.)")


class SDVAETokenizer(ModelTokenizer):
    """The mode of the posterior, without the factor 0.18215 that diffusion models multiply by."""

    def encode_(self, x: Tensor) -> Tensor:
        return self.model.encode(2 * x - 1).latent_dist.mode()

    def decode_(self, z: Tensor) -> Tensor:
        return (self.model.decode(z).sample + 1) / 2


def find() -> Path | None:
    """A folder with the weights: assets/tokenizers/sd-vae, else what the hub left on this disk earlier."""
    from huggingface_hub import try_to_load_from_cache

    if (FOLDER / CONFIG).is_file():
        return FOLDER
    cached = [try_to_load_from_cache(HUB_ID, name) for name in (CONFIG, WEIGHTS)]
    return Path(cached[0]).parent if all(isinstance(path, str) for path in cached) else None


def load(source: str | os.PathLike | None = None) -> SDVAETokenizer:
    """From a folder, "hf:org/name", "random" or, without a source, what is on this machine. Raises
    ValueError."""
    if source == RANDOM:
        return _tokenizer(random_model(), "random weights")
    if source is None:
        folder = find()
        if folder is None:
            raise ValueError(
                f"The weights of sd-vae are not on this machine. Name a folder that has them, write "
                f'"{HUB_PREFIX}{HUB_ID}" to fetch them, or "{RANDOM}" for random ones.'
            )
        return _tokenizer(_read(folder), folder.name if folder == FOLDER else HUB_ID)
    folder = resolve(source)
    is_hub = str(source).startswith(HUB_PREFIX)
    return _tokenizer(_read(folder), str(source) if is_hub else folder.resolve().name)


def random_model() -> AutoencoderKL:
    """The published architecture with random weights, the same ones each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoencoderKL(**ARCHITECTURE, sample_size=IMAGE_SIZE)


def _tokenizer(model: AutoencoderKL, source: str) -> SDVAETokenizer:
    side = IMAGE_SIZE // DOWNSAMPLING
    info = TokenizerInfo(
        name="sd-vae",
        latent_shape=(ARCHITECTURE["latent_channels"], side, side),
        downsampling=DOWNSAMPLING,
        parameters=count_parameters(model),
        source=source,
        licence="MIT",
        image_size=IMAGE_SIZE,
    )
    return SDVAETokenizer(model, info)


def _read(folder: Path) -> AutoencoderKL:
    config = read_json(folder / CONFIG, "an sd-vae")
    differing = [name for name, value in ARCHITECTURE.items() if config.get(name, value) != value]
    if config.get("_class_name") != "AutoencoderKL" or differing:
        what = f"another {', '.join(differing)}" if differing else f"a {config.get('_class_name')}"
        raise ValueError(f"{folder} is not an sd-vae: its {CONFIG} says {what}.")
    path = folder / WEIGHTS
    if not path.is_file():
        raise ValueError(f"{folder} has no weights: {WEIGHTS} is missing.")
    try:
        weights = {LEGACY.sub(_today, name): weight for name, weight in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or cut off ({error}). Fetch it again.") from error
    model = AutoencoderKL(**ARCHITECTURE, sample_size=IMAGE_SIZE)
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        names = textwrap.shorten(str(error), 400)  # names every key; for a foreign file that is hundreds
        raise ValueError(f"{path} does not fit an sd-vae: {names}") from error
    return model


def _today(match: re.Match) -> str:
    return match[1] + {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}[match[2]]
