"""Runs one row of the study: its tokenizer's phases, the generator on its latent, all numbers, one JSON file.

What is finished is skipped, what was stopped goes on; a file or folder of other settings is an error.
"""

import json
import logging
from functools import partial
from pathlib import Path

from rpiae.autoencoder import AutoencoderRPiAE
from rpiae.encoder import RepresentationEncoder
from rpiae.tokenizers.base import count_parameters
from rpiae.tokenizers.compact import open_model
from rpiae.transformer import RPiAETransformer2DModel

from ..config import AutoencoderStage, DiffusionStage, StageSettings
from ..runtime import device
from ..states import write_whole
from .config import StudySettings, settings_of
from .generator import GeneratorTask, time_shift
from .measure import measure
from .representation import KEPT, fingerprint, representation
from .rows import ROWS, Phase
from .stage import Plan, train
from .tokenizer import TokenizerTask, build

logger = logging.getLogger(__name__)
CURVES = ("skills", "edits", "skill_checks", "edit_checks", "changed_error")
DECIDES = ("world", "models", "codebook", "representation")  # what a tokenizer learns, beside its own stage


class RowRun:
    """One row with one seed."""

    def __init__(self, study: StudySettings, name: str, seed: int):
        self.study, self.name, self.seed, self.row = study, name, seed, ROWS[name]
        self.folder = study.output / f"{name}-{seed}"
        self.file = study.results / "rows" / f"{name}-{seed}.json"
        self.legs: dict[str, dict] = {}

    def settings(self) -> dict:
        """All that decides the row's numbers."""
        return self.study.written() | {"row": self.row.written()}

    def finished(self) -> dict | None:
        """The row's numbers where its file is there; ValueError when they are of other settings."""
        if not self.file.is_file():
            return None
        found = json.loads(self.file.read_text(encoding="utf-8"))
        if settings_of(found) != self.settings():
            raise ValueError(
                f"{self.file} holds this row with other settings; choose another results=, or remove the file"
            )
        if found.get("representation") != fingerprint(self.study):
            raise ValueError(
                f"{self.file} came from another representation than {self.study.results / KEPT}: bring that one back, "
                "or remove the row"
            )
        return found

    def run(self, ceiling: float | None) -> dict:
        """The row's numbers, from its file or from training; its file is there afterwards.

        ceiling: the share of true pictures that the judge accepts, to be noted beside the row's numbers; None without
            a generator, whose pictures alone are judged.
        """
        if (found := self.finished()) is not None:
            logger.info("%s with seed %d is finished: skipped", self.name, self.seed)
            return found
        vae = self.tokenizer()
        generator = self.generator(vae) if self.study.generator else None
        numbers, parameters = measure(self.study, vae, generator), {"tokenizer": count_parameters(vae)}
        if generator is not None:
            numbers["ceiling"] = ceiling
            parameters["generator"] = count_parameters(generator.transformer)
        found = {
            "row": self.name,
            "seed": self.seed,
            "title": self.row.title,
            "numbers": numbers,
            "curve": self.curve() if generator else [],
            "latent_shape": list(vae.latent_shape),
            "parameters": parameters,
            "legs": self.legs,
            "representation": fingerprint(self.study),
            "settings": self.settings(),
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.file, json.dumps(found, indent=1) + "\n")
        return found

    def tokenizer(self) -> AutoencoderRPiAE:
        """The row's tokenizer after all its phases, in evaluation mode."""
        frozen, before = representation(self.study), None
        for phase in self.row.phases:
            folder = self.folder / phase.name
            make = partial(self._task, phase, self.stage(phase), before, frozen, self._first(phase))
            self.legs[phase.name] = train(make, self.plan(phase), folder, "tokenizer")
            before = folder / "result"
        return open_model(before)

    def plan(self, phase: Phase) -> Plan:
        """All that decides what one of the tokenizer's phases learns."""
        return self._plan(self.stage(phase), *DECIDES, first=self._first(phase))

    def generator_plan(self, vae: AutoencoderRPiAE) -> Plan:
        """All that decides what the generator learns, and how it is judged on the way."""
        return self._plan(self.generator_stage(vae), *DECIDES, "tokenizer", "sampling", "measure")

    def _plan(self, stage: StageSettings, *parts: str, **about: int) -> Plan:
        """Of a stage which these parts of the study's settings decide too."""
        about |= {"row": self.row.written(), "study": self.study.written(*parts)}
        return Plan(self.study, stage, self.seed, about | {"representation": fingerprint(self.study)})

    def _first(self, phase: Phase) -> int:
        """How many pictures the phases before have seen."""
        before = self.row.phases[: self.row.phases.index(phase)]
        return sum(self.stage(one).samples for one in before)

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
        folder = self.folder / "generator"
        make = partial(GeneratorTask, self.study, self.generator_stage(vae), vae, self.seed)
        self.legs["generator"] = train(make, self.generator_plan(vae), folder, "generator")
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
