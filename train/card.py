"""The model card of a checkpoint: what it was trained on, for how long on what, the measured tables, its limits."""

from pathlib import Path

import torch
from safetensors import safe_open

from .config import TrainingConfig

LICENCE = "cc-by-sa-4.0"


def parameters(folder: Path) -> dict[str, int]:
    """Parameters per component, read from the safetensors headers."""
    counts = {}
    for file in sorted(folder.glob("*/*.safetensors")):
        with safe_open(file, "pt") as tensors:
            shapes = [tensors.get_slice(key).get_shape() for key in tensors.keys()]  # noqa: SIM118
        counts[file.parent.name] = sum(torch.Size(shape).numel() for shape in shapes)
    return counts


def model_card(config: TrainingConfig, folder: Path, legs: dict[str, list[dict]], tables: str) -> str:
    sizes = parameters(folder)
    size_lines = "\n".join(f"- {name}: {count:,} parameters" for name, count in sizes.items())
    leg_lines = "\n".join(
        f"| {name} | {leg['samples']:,} | {leg['minutes']:.0f} | {leg['machine']} |"
        for name, stage_legs in legs.items()
        for leg in stage_legs
    )
    weights = sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 2**20
    return f"""---
license: {LICENCE}
library_name: rpiae
tags: [text-to-image, image-editing, image-tokenizer]
---

# {config.name}

An RPiAE tokenizer (representation encoder, variational bridge, pixel decoder) and a diffusion transformer for
text-to-image and instruction editing on its latents, trained by this repository on **sticker scenes**: pictures of
129 nouns in two drawing styles and eight colours on sixteen backgrounds, drawn by `train/data/scenes`. 256 x 256
pixels, {weights:.1f} MiB in float16. The text encoder, all-MiniLM-L6-v2, is installed with the requirements.

{size_lines}

## Training

`python -m train {config.name} all`. Every leg, in order; a sample is a picture, in the last stages a scene with
two edits and a caption:

| stage | samples | minutes | machine |
|---|---|---|---|
{leg_lines}

## Measured

{tables.strip()}

## Limits

It draws and edits sticker scenes. It is no photo editor: on photos the tokenizer blurs and instructions are followed
by chance. English only, up to 64 word pieces, 256 pixels.

## Licence

Weights CC BY-SA 4.0, because they were trained on drawings of OpenMoji (CC BY-SA 4.0) and Twemoji (CC BY 4.0); see
NOTICE. Code Apache-2.0.
"""
