"""From finished stages to the checkpoint folder that `from_pretrained` and the app read.

A folder with the tokenizer alone is written too: it hands the tokenizer on to a later leg of training.
"""

import copy
import json
import os
import shutil
from pathlib import Path

import torch
from diffusers import ModelMixin

from rpiae.autoencoder import AutoencoderRPiAE
from rpiae.loading import cast
from rpiae.pipeline import RPiAEPipeline, make_scheduler
from rpiae.text import TextEncoder
from rpiae.transformer import RPiAETransformer2DModel

from .config import TrainingConfig

TRAINING_FILE = "training.json"


def read_legs(folder: Path) -> dict[str, list[dict]]:
    """The legs of training that a checkpoint folder lists: stage → legs, oldest first; {} where there is none."""
    file = folder / TRAINING_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def write_checkpoint(
    config: TrainingConfig,
    vae: AutoencoderRPiAE,
    transformer: RPiAETransformer2DModel | None,
    legs: dict[str, dict],
) -> None:
    """Write models (float16), settings and the list of legs, beside the old folder first and then in its place.

    `legs` are the finished stages of this output; those that the folder already lists are kept before them.
    """
    folder = config.checkpoint
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    history = read_legs(folder)
    for name, leg in legs.items():
        if leg not in history.setdefault(name, []):
            history[name].append(leg)
    if transformer is None:
        half(vae).save_pretrained(part / "vae")
    else:
        sampling = config.sampling
        region = _index(folder).get("region")  # calibrated by `train evaluate`; kept until it is done again
        RPiAEPipeline(
            vae=half(vae), transformer=half(transformer),
            text_encoder=TextEncoder(**config.models.text_encoder),
            scheduler=make_scheduler(sampling.time_shift),
            defaults=sampling.model_dump(exclude={"time_shift"}), region=region,
        ).save_pretrained(part)  # fmt: skip
    (part / TRAINING_FILE).write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
    for kept in ("README.md",):
        if (folder / kept).is_file():
            shutil.copy2(folder / kept, part / kept)
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
    os.rename(part, folder)
    shutil.rmtree(old, ignore_errors=True)


def _index(folder: Path) -> dict:
    file = folder / "model_index.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def half(model: ModelMixin) -> ModelMixin:
    """A float16 copy, for saving."""
    return cast(copy.deepcopy(model), torch.float16)
