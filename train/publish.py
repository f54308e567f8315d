"""From finished stages to the checkpoint folder that `from_pretrained` and the app read.

A folder with the tokenizer alone is written too: it is what the authors released, and what a later leg goes on from.
"""

import copy
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import torch
from diffusers import ModelMixin

from rpiae.autoencoder import AutoencoderRPiAE
from rpiae.class_conditional import ClassConditionalPipeline
from rpiae.lightning_dit import LightningDiT2DModel
from rpiae.loading import cast
from rpiae.pipeline import RPiAEPipeline, make_scheduler
from rpiae.text import TextEncoder
from rpiae.transformer import RPiAETransformer2DModel

from .card import model_card
from .config import ClassConditionalStage, DiffusionStage, TrainingConfig

TRAINING_FILE = "training.json"
TRANSFORMER_STAGES = (DiffusionStage, ClassConditionalStage)


def read_legs(folder: Path) -> dict[str, list[dict]]:
    """The legs of training that a checkpoint folder lists: stage → legs, oldest first; {} where there is none."""
    file = folder / TRAINING_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def transformer_stages(config: TrainingConfig) -> list[str]:
    """Names of the stages that train what draws."""
    return [name for name, stage in config.stages.items() if isinstance(stage, TRANSFORMER_STAGES)]


def set_aside(folder: Path) -> Path:
    """Where a checkpoint folder waits while the new one takes its place."""
    return folder.with_name(folder.name + ".old")


def put_back(folder: Path) -> None:
    """Undo a swap that was cut short: without it the old checkpoint, its legs and what was calibrated are lost. Any
    number of processes may try."""
    if not folder.exists() and set_aside(folder).is_dir():
        with suppress(FileNotFoundError):  # another process was faster
            os.rename(set_aside(folder), folder)


def write_checkpoint(
    config: TrainingConfig,
    vae: AutoencoderRPiAE,
    transformer: RPiAETransformer2DModel | LightningDiT2DModel | None,
    legs: dict[str, dict],
) -> None:
    """Write models (float16; of a config for classes as they were trained), settings and the list of legs, beside the
    old folder first and then in its place.

    Args:
        transformer: None leaves the folder's own in place when it was trained on this very tokenizer; otherwise the
            folder will hold the tokenizer alone.
        legs: the finished stages of this output; those of `init`, or else of the folder, come before them.
    """
    folder = config.checkpoint
    put_back(folder)
    history = read_legs(config.init if config.init is not None else folder)
    known = all(leg in history.get(name, []) for name, leg in legs.items())
    if transformer is None and known and (folder / "transformer").is_dir():
        return  # nothing here that the folder does not have
    for name, leg in legs.items():
        if leg not in history.setdefault(name, []):
            history[name].append(leg)
    if transformer is None:  # its legs go with it: a stage that the folder lists counts as finished
        history = {name: history[name] for name in history if name not in transformer_stages(config)}
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    if transformer is None:
        (vae if config.models.class_transformer else half(vae)).save_pretrained(part / "vae")
    elif isinstance(transformer, LightningDiT2DModel):
        ClassConditionalPipeline(vae=vae, transformer=transformer).save_pretrained(part)
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
    card = model_card(config, part, history, _unmeasured(config, transformer is None))
    (part / "README.md").write_text(card, encoding="utf-8")
    old = set_aside(folder)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
    os.rename(part, folder)
    shutil.rmtree(old, ignore_errors=True)


def _unmeasured(config: TrainingConfig, tokenizer_alone: bool) -> str:
    """What stands in the card until it is measured: with which commands. `evaluate` knows sticker scenes only."""
    if tokenizer_alone:
        return "Not measured yet: `python -m train measure-reconstruction` does it, on a folder of pictures."
    if config.models.class_transformer is not None:
        return (
            "Not measured yet: `measure-reconstruction`, `export classes` and `measure-samples` of `python -m train` "
            "do it."
        )
    if any(getattr(stage, "data", None) is not None for stage in config.stages.values()):
        return (
            "Not measured yet: `python -m train measure-reconstruction` measures the tokenizer on a folder of "
            "pictures;\n`python -m train export` draws what the scorers of GenEval, DPG-Bench and GEdit-Bench judge."
        )
    return f"Not measured yet: `python -m train evaluate {config.name}` does it."


def _index(folder: Path) -> dict:
    file = folder / "model_index.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def half(model: ModelMixin) -> ModelMixin:
    """A float16 copy, for saving."""
    return cast(copy.deepcopy(model), torch.float16)
