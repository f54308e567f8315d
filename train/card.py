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
    if config.models.class_transformer is not None:
        return _class_card(config, size_lines, leg_lines, tables)
    if any(getattr(stage, "data", None) is not None for stage in config.stages.values()):
        return _own_data_card(config, size_lines, leg_lines, tables)
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


def _own_data_card(config: TrainingConfig, size_lines: str, leg_lines: str, tables: str) -> str:
    """Of a transformer for text and edits, trained on somebody's captions and edits."""
    # The end of a path: a card is for others to read, and where the data lay on a disk is nobody's business.
    source_lines = "\n".join(
        f"| {name} | {'/'.join(Path(source.path).parts[-2:])} ({source.kind}) | {source.weight:g} |"
        for name, stage in config.stages.items()
        if getattr(stage, "data", None) is not None
        for source in stage.data.sources
    )
    return f"""---
license: other
library_name: rpiae
tags: [text-to-image, image-editing, image-tokenizer]
---

# {config.name}

An RPiAE tokenizer (representation encoder, variational bridge, pixel decoder) and a diffusion transformer for
text-to-image and instruction editing on its latents, {config.models.image_size} x {config.models.image_size} pixels.

{size_lines}

## Training

`python -m train {config.name} all`. Every leg, in order; a sample is a captioned picture or an edit:

| stage | samples | minutes | machine |
|---|---|---|---|
{leg_lines}

On, in proportion to the weights within a stage:

| stage | source | weight |
|---|---|---|
{source_lines}

## Measured

{tables.strip()}

## Licence

Code Apache-2.0. What may be done with the weights depends on the pictures that they were trained on.
"""


def _class_card(config: TrainingConfig, size_lines: str, leg_lines: str, tables: str) -> str:
    """Of a tokenizer, and a transformer for classes, trained on somebody's pictures."""
    models = config.models
    return f"""---
license: other
library_name: rpiae
tags: [class-conditional-image-generation, image-tokenizer]
---

# {config.name}

An RPiAE tokenizer (representation encoder, variational bridge, pixel decoder) and a LightningDiT for
{models.class_transformer["num_classes"]} classes on its latents, by the authors' training.
{models.image_size} x {models.image_size} pixels, weights as they were trained.

{size_lines}

## Training

`python -m train {config.name} all`. Every leg, in order; a sample is a picture:

| stage | samples | minutes | machine |
|---|---|---|---|
{leg_lines}

## Measured

{tables.strip()}

## Licence

Code Apache-2.0. What may be done with the weights depends on the pictures that they were trained on.
"""
