"""The study's frozen representation: trained once and kept beside the rows, so that all of them, whenever and wherever
they are trained, are anchored to the same numbers.

`<results>/representation.safetensors` is its encoder in float16, with the plan that it was trained by in the file's
metadata. A row is given the numbers of that file and records its SHA-256.
"""

import hashlib
import json
import os
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from rpiae.encoder import RepresentationEncoder, build_encoder
from rpiae.loading import load_strictly

from ..states import RUBBISH
from ..tasks.representation import HELD_OUT_TAG, TAG, VALIDATION_PICTURES, RepresentationTask
from .config import StudySettings
from .generator import as_training_config
from .stage import Plan, train
from .world import WorldPictures

KEPT = "representation.safetensors"
PLAN = "plan"  # its name in the file's metadata
SEED = 0  # one for the whole study, as a published encoder would be


class WorldRepresentationTask(RepresentationTask):
    """Stage 0 in the study's world."""

    def __init__(self, study: StudySettings):
        models = study.models
        tokens = models.transformer["sample_size"] // models.transformer["patch_size"]
        shape = (models.bridge["latent_channels"], tokens, tokens)
        super().__init__(as_training_config(study, SEED, shape), study.representation)
        given = {"seed": SEED, "labels": True}
        self.dataset = WorldPictures(study.world, tag=TAG, samples=study.representation.samples, **given)
        self.held_out = WorldPictures(study.world, tag=HELD_OUT_TAG, samples=VALIDATION_PICTURES, **given)


def representation(study: StudySettings) -> RepresentationEncoder:
    """The study's frozen representation encoder, trained when it is not there yet.

    ValueError when the one that is there is of other settings, or when it has gone and rows are left that came from it.
    """
    file, plan = study.results / KEPT, plan_of(study)
    if not file.is_file():
        if any((study.results / "rows").glob("*.json")):
            raise ValueError(f"{file} is missing, and rows came from it: bring it back, or choose another results=")
        folder = study.output / "representation"
        train(partial(WorldRepresentationTask, study), plan, folder, "representation")
        keep(load_file(folder / "result" / "encoder.safetensors"), plan, file)
    if not plan.is_that_of(_recorded(file)):
        raise ValueError(f"{file} was trained by other settings; choose another results=, or remove it and its rows")
    encoder = build_encoder(study.models.encoder, study.models.image_size)
    load_strictly(encoder, file)
    return encoder.eval().requires_grad_(False)


def plan_of(study: StudySettings) -> Plan:
    """What the representation is trained by."""
    models = study.models
    about = {"encoder": models.encoder, "text_encoder": models.text_encoder, "study": study.written("world")}
    return Plan(study, study.representation, SEED, about)


def keep(weights: dict[str, torch.Tensor], plan: Plan, file: Path) -> None:
    """Write the representation's file, which is whole as soon as it is there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + RUBBISH)
    save_file({name: one.half() for name, one in weights.items()}, part, {PLAN: json.dumps(plan.written())})
    os.replace(part, file)


def fingerprint(study: StudySettings) -> str | None:
    """SHA-256 of the representation's file; None where there is none."""
    file = study.results / KEPT
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def _recorded(file: Path) -> dict:
    """The plan in a file's metadata."""
    try:
        with safe_open(file, "pt") as opened:
            return json.loads(opened.metadata()[PLAN])
    except (SafetensorError, KeyError, TypeError):
        raise ValueError(f"{file} is damaged, or no study's representation: bring it back as it was") from None
