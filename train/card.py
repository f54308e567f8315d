"""The model card of a checkpoint: what it was trained on, for how long on what, the measured tables, its limits.

It tells what lies in the folder, which may be the tokenizer alone.
"""

from pathlib import Path
from textwrap import TextWrapper

import torch
from safetensors import safe_open

from .config import TrainingConfig

LICENCE = "cc-by-sa-4.0"
FILL = TextWrapper(120, break_long_words=False, break_on_hyphens=False).fill
TOKENIZER = "An RPiAE tokenizer (representation encoder, variational bridge, pixel decoder)"


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
    draws = "transformer" in sizes
    write = _sticker_card
    if config.models.class_transformer is not None:
        write = _class_card
    elif any(getattr(stage, "data", None) is not None for stage in config.stages.values()):
        write = _own_data_card
    return write(config, folder, draws, legs, size_lines, tables.strip())


def _legs(config: TrainingConfig, legs: dict[str, list[dict]], sample: str) -> str:
    """How it was trained; `sample`: what one is."""
    words = (
        f"`python -m train {config.name} all` trains what the config says today. This checkpoint was trained in these "
        "legs, each stage's in order: a later leg continues the one before, or replaces it where the tokenizer was "
        f"made anew. A sample is {sample}."
    )
    leg_lines = "\n".join(
        f"| {name} | {leg['samples']:,} | {leg['minutes']:.0f} | {leg['machine']} |"
        for name, stage_legs in legs.items()
        for leg in stage_legs
    )
    return f"{FILL(words)}\n\n| stage | samples | minutes | machine |\n|---|---|---|---|\n{leg_lines}"


def _sticker_card(
    config: TrainingConfig, folder: Path, draws: bool, legs: dict[str, list[dict]], size_lines: str, tables: str
) -> str:
    """Of what was trained on scenes that this repository draws."""
    weights = sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 2**20
    tags, what, encoder = "image-tokenizer", TOKENIZER, ""
    sample = "a picture"
    limits = "It knows sticker scenes; photos come back blurred. 256 pixels."
    if draws:
        tags = "text-to-image, image-editing, image-tokenizer"
        what += " and a diffusion transformer for text-to-image and instruction editing on its latents"
        encoder = " The text encoder, all-MiniLM-L6-v2, is installed with the requirements."
        sample = "a picture; of the transformer, a scene with two edits and captions"
        limits = (
            "It draws and edits sticker scenes. It is no photo editor: it has never seen a photo, and nothing was "
            "measured on any. How often each kind of edit and picture succeeds is in the tables. English only, up to "
            "64 word pieces, 256 pixels."
        )
    about = (
        f"{what}, trained by this repository on **sticker scenes**: pictures of 129 nouns in two drawing styles and "
        "eight colours on sixteen backgrounds, drawn by `train/data/scenes`. 256 x 256 pixels, "
        f"{weights:.1f} MiB in float16.{encoder}"
    )
    return f"""---
license: {LICENCE}
library_name: rpiae
tags: [{tags}]
---

# {config.name}

{FILL(about)}

{size_lines}

## Training

{_legs(config, legs, sample)}

## Measured

{tables}

## Limits

{FILL(limits)}

## Licence

Weights CC BY-SA 4.0, because they were trained on drawings of OpenMoji (CC BY-SA 4.0) and Twemoji (CC BY 4.0); see
NOTICE. Code Apache-2.0.
"""


def _own_data_card(
    config: TrainingConfig, folder: Path, draws: bool, legs: dict[str, list[dict]], size_lines: str, tables: str
) -> str:
    """Of what was trained on somebody's pictures, captions and edits."""
    # The end of a path: a card is for others to read, and where the data lay on a disk is nobody's business.
    source_lines = "\n".join(
        f"| {name} | {'/'.join(Path(source.path).parts[-2:])} ({source.kind}) | {source.weight:g} |"
        for name, stage in config.stages.items()
        if name in legs and getattr(stage, "data", None) is not None
        for source in stage.data.sources
    )
    tags, what, sample = "image-tokenizer", TOKENIZER, "a picture"
    if draws:
        tags = "text-to-image, image-editing, image-tokenizer"
        what += " and a diffusion transformer for text-to-image and instruction editing on its latents"
        sample = "a captioned picture or an edit, of the tokenizer's stages a picture"
    return f"""---
license: other
library_name: rpiae
tags: [{tags}]
---

# {config.name}

{FILL(f"{what}, {config.models.image_size} x {config.models.image_size} pixels.")}

{size_lines}

## Training

{_legs(config, legs, sample)}

On, in proportion to the weights within a stage:

| stage | source | weight |
|---|---|---|
{source_lines}

## Measured

{tables}

## Licence

Code Apache-2.0. What may be done with the weights depends on the pictures that they were trained on.
"""


def _class_card(
    config: TrainingConfig, folder: Path, draws: bool, legs: dict[str, list[dict]], size_lines: str, tables: str
) -> str:
    """Of a tokenizer, and a transformer for classes, trained on somebody's pictures."""
    models = config.models
    tags, what = "image-tokenizer", TOKENIZER
    if draws:
        tags = "class-conditional-image-generation, image-tokenizer"
        what += f" and a LightningDiT for {models.class_transformer['num_classes']} classes on its latents"
    about = f"{what}, by the authors' training. {models.image_size} x {models.image_size} pixels, weights as trained."
    return f"""---
license: other
library_name: rpiae
tags: [{tags}]
---

# {config.name}

{FILL(about)}

{size_lines}

## Training

{_legs(config, legs, "a picture")}

## Measured

{tables}

## Licence

Code Apache-2.0. What may be done with the weights depends on the pictures that they were trained on.
"""
