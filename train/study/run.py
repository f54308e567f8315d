"""Runs one row of the study: its tokenizer's phases, the generator on its latent, all numbers, one JSON file.

What is finished is skipped, what was stopped goes on; a file or folder of other settings is an error.
"""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file

from rpiae.autoencoder import AutoencoderRPiAE
from rpiae.encoder import RepresentationEncoder, build_encoder
from rpiae.tokenizers.base import count_parameters
from rpiae.tokenizers.compact import open_model
from rpiae.transformer import RPiAETransformer2DModel

from ..config import INCIDENTAL, AutoencoderStage, DiffusionStage, StageSettings, as_recorded
from ..loop import Loop
from ..runtime import device
from ..stages import machine
from ..states import claimed, write_whole
from ..tasks.representation import HELD_OUT_TAG, TAG, VALIDATION_PICTURES, RepresentationTask
from ..tasks.task import Task
from .config import StudySettings, as_written, settings_of
from .generator import GeneratorTask, as_training_config, time_shift
from .measure import measure
from .rows import ROWS, Phase
from .tokenizer import TokenizerTask, build
from .world import WorldPictures

logger = logging.getLogger(__name__)
CURVES = ("skills", "edits", "skill_checks", "edit_checks", "changed_error")
DECIDES = ("world", "models", "codebook", "representation")  # what a tokenizer learns, beside its own stage
REPRESENTATION_SEED = 0  # one for the whole study, as a published encoder would be


class WorldRepresentationTask(RepresentationTask):
    """Stage 0 in the study's world."""

    def __init__(self, study: StudySettings):
        models = study.models
        tokens = models.transformer["sample_size"] // models.transformer["patch_size"]
        shape = (models.bridge["latent_channels"], tokens, tokens)
        super().__init__(as_training_config(study, REPRESENTATION_SEED, shape), study.representation)
        given = {"seed": REPRESENTATION_SEED, "labels": True}
        self.dataset = WorldPictures(study.world, tag=TAG, samples=study.representation.samples, **given)
        self.held_out = WorldPictures(study.world, tag=HELD_OUT_TAG, samples=VALIDATION_PICTURES, **given)


def train(
    make_task: Callable[[], Task],
    study: StudySettings,
    stage: StageSettings,
    folder: Path,
    seed: int,
    about: dict,
    key: str,
) -> dict:
    """Train a stage to its end in `folder`, unless it is finished; its result lies in folder/result.

    Args:
        about: what else decides what is learned, for the comparison with what is there; the study's settings among
            it are in "study".
        key: of the study's settings, for messages.

    Returns: {"samples", "minutes", "machine"}. ValueError when the folder's stage was another.
    """
    plan, marker = folder / "plan.json", folder / "finished.json"
    wanted = json.loads(json.dumps({"seed": seed, "settings": _kept(stage.model_dump(mode="json"))} | about))
    if plan.is_file() and _as_planned(json.loads(plan.read_text(encoding="utf-8")), study, stage) != wanted:
        raise ValueError(f"{folder} holds a run of other settings; choose another output=, or remove the folder")
    if marker.is_file():
        return json.loads(marker.read_text(encoding="utf-8"))
    with claimed(folder):
        write_whole(plan, json.dumps(wanted, indent=1) + "\n")
        torch.manual_seed(seed)
        task = make_task()
        progress = Loop(task, stage, folder, seed, key).run(resume=True)
        shutil.rmtree(folder / "result", ignore_errors=True)
        task.export(folder / "result")
        leg = {
            "samples": progress.step * stage.batch_size,
            "minutes": round(progress.seconds / 60, 2),
            "machine": machine(),
        }
        write_whole(marker, json.dumps(leg, indent=1) + "\n")
        for state in folder.glob("state-*"):
            shutil.rmtree(state)
    return leg


def _as_planned(plan: dict, study: StudySettings, stage: StageSettings) -> dict:
    """A plan that was written down, with the settings that are newer than it."""
    settings = as_recorded(stage, plan["settings"])
    plan = plan if settings is None else plan | {"settings": _kept(settings)}
    if "study" not in plan:  # of a time when plans were written otherwise
        return plan
    return plan | {"study": as_written(plan["study"], study.model_dump(mode="json"), *plan["study"])}


def _kept(settings: dict) -> dict:
    return {name: value for name, value in settings.items() if name not in INCIDENTAL}


def representation(study: StudySettings) -> RepresentationEncoder:
    """The study's frozen representation encoder, trained when it is not there yet."""
    folder = study.output / "representation"
    about = {"encoder": study.models.encoder, "study": study.written("world")}
    make = partial(WorldRepresentationTask, study)
    train(make, study, study.representation, folder, REPRESENTATION_SEED, about, "representation")
    encoder = build_encoder(study.models.encoder, study.models.image_size)
    encoder.load_state_dict(load_file(folder / "result" / "encoder.safetensors"))
    return encoder.eval().requires_grad_(False)


class RowRun:
    """One row with one seed."""

    def __init__(self, study: StudySettings, name: str, seed: int):
        self.study, self.name, self.seed, self.row = study, name, seed, ROWS[name]
        self.folder = study.output / f"{name}-{seed}"
        self.file = study.results / "rows" / f"{name}-{seed}.json"
        self.legs: dict[str, dict] = {}

    def settings(self) -> dict:
        """All that decides the row's numbers."""
        return self.study.written() | {"row": json.loads(json.dumps(asdict(self.row)))}

    def finished(self) -> dict | None:
        """The row's numbers where its file is there; ValueError when they are of other settings."""
        if not self.file.is_file():
            return None
        found = json.loads(self.file.read_text(encoding="utf-8"))
        if settings_of(found) != self.settings():
            raise ValueError(
                f"{self.file} holds this row with other settings; choose another results=, or remove the file"
            )
        return found

    def run(self) -> dict:
        """The row's numbers, from its file or from training; its file is there afterwards."""
        if (found := self.finished()) is not None:
            logger.info("%s with seed %d is finished: skipped", self.name, self.seed)
            return found
        vae = self.tokenizer()
        generator = self.generator(vae)
        numbers = measure(self.study, vae, generator)
        found = {
            "row": self.name,
            "seed": self.seed,
            "title": self.row.title,
            "numbers": numbers,
            "curve": self.curve(),
            "latent_shape": list(vae.latent_shape),
            "parameters": {"tokenizer": count_parameters(vae), "generator": count_parameters(generator.transformer)},
            "legs": self.legs,
            "settings": self.settings(),
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.file, json.dumps(found, indent=1) + "\n")
        return found

    def tokenizer(self) -> AutoencoderRPiAE:
        """The row's tokenizer after all its phases, in evaluation mode."""
        frozen = representation(self.study)
        before: Path | None = None
        first = 0
        for phase in self.row.phases:
            folder = self.folder / phase.name
            stage = self.stage(phase)
            about = {"row": asdict(self.row), "study": self.study.written(*DECIDES), "first": first}
            make = partial(self._task, phase, stage, before, frozen, first)
            self.legs[phase.name] = train(make, self.study, stage, folder, self.seed, about, "tokenizer")
            before, first = folder / "result", first + stage.samples
        return open_model(before)

    def stage(self, phase: Phase) -> AutoencoderStage:
        """The config's tokenizer stage as the phase changes it; whole batches."""
        base = self.study.tokenizer
        batches = max(1, round(phase.share * base.samples / base.batch_size))
        changes = {"trains": phase.trains, "samples": batches * base.batch_size} | dict(phase.changes)
        return base.model_copy(update=changes)

    def _task(
        self,
        phase: Phase,
        stage: AutoencoderStage,
        before: Path | None,
        frozen: RepresentationEncoder,
        first: int,
    ) -> TokenizerTask:
        """The phase on what the one before left, or on a fresh autoencoder."""
        make = partial(TokenizerTask, self.study, self.row, stage, representation=frozen, seed=self.seed, first=first)
        bridged = "bridge" in phase.trains
        if before is None:
            vae = build(self.study, self.row, bridged)
            fresh = {"decoder"} | ({"bridge"} if bridged else set())
            if self.row.start == "representation":
                vae.encoder.load_state_dict(frozen.state_dict())
            else:
                fresh.add("encoder")
            return make(vae=vae, fresh=tuple(sorted(fresh)))
        vae = open_model(before)
        if not bridged or vae.bridge is not None:
            return make(vae=vae)
        wider = build(self.study, self.row, True)
        wider.encoder.load_state_dict(vae.encoder.state_dict())
        wider.decoder.load_state_dict(vae.decoder.state_dict())
        return make(vae=wider, fresh=("bridge",))

    def generator(self, vae: AutoencoderRPiAE) -> GeneratorTask:
        """The trained generator."""
        stage = self.generator_stage(vae)
        folder = self.folder / "generator"
        # Also how it is judged, as it is on the way.
        about = {
            "row": asdict(self.row),
            "study": self.study.written(*DECIDES, "tokenizer", "sampling", "measure"),
        }
        make = partial(GeneratorTask, self.study, stage, vae, self.seed)
        self.legs["generator"] = train(make, self.study, stage, folder, self.seed, about, "generator")
        task = make()
        task.transformer.load_state_dict(RPiAETransformer2DModel.from_pretrained(folder / "result").state_dict())
        return task.to(device()).eval()

    def generator_stage(self, vae: AutoencoderRPiAE) -> DiffusionStage:
        """The config's generator stage with the latent's time shift, checked so often that the curve has its points."""
        stage = self.study.generator
        steps = -(-stage.samples // stage.batch_size)
        every = max(1, -(-steps // self.study.measure.curve_points))
        shift = time_shift(self.study, vae.latent_shape, stage.time_shift)
        return stage.model_copy(update={"time_shift": shift, "validate_every": every})

    def curve(self) -> list[dict[str, float]]:
        """What was judged on the way: {"samples", ...} a point, from the generator's log."""
        lines = (self.folder / "generator" / "log.jsonl").read_text(encoding="utf-8").splitlines()
        points = {}
        for record in map(json.loads, lines):
            if "skills" in record:  # a step that was done again after a stop counts once
                points[record["samples"]] = {name: record[name] for name in ("samples", *CURVES)}
        return [points[samples] for samples in sorted(points)]
