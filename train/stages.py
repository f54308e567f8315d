"""Runs the stages of a training config and hands their results on.

    representation → pivot → bridge → decoder        the tokenizer (the checkpoint's vae)
                                      → text / edit  the diffusion transformer
                                      → class        or one for classes

Each stage's result lies in <output>/<stage>/result. What is finished is skipped: in this output, or, unless `init`
asks for a new leg, in the checkpoint, whose tokenizer counts whole or not at all.
"""

import json
import logging
import platform
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from rpiae.autoencoder import AutoencoderRPiAE
from rpiae.lightning_dit import LightningDiT2DModel
from rpiae.transformer import RPiAETransformer2DModel

from . import further_leg, publish
from .config import (
    INCIDENTAL,
    AutoencoderStage,
    ClassConditionalStage,
    DiffusionStage,
    RepresentationStage,
    TrainingConfig,
    as_recorded,
)
from .data.pictures import PictureSettings, ScenePictures
from .data.reader import missing_sources
from .latents import fingerprint
from .linear_start import carry_over, collect_pictures
from .loop import Loop
from .official_start import load_dinov2, start_bridge_at_random
from .progress import Progress
from .runtime import is_main_process
from .states import States, claimed, write_whole
from .tasks.autoencoder import AutoencoderTask
from .tasks.class_conditional import ClassConditionalTask
from .tasks.diffusion import DiffusionTask
from .tasks.representation import RepresentationTask
from .tasks.task import Task

logger = logging.getLogger(__name__)

CARRY_TAG, CARRY_PICTURES = 80, 256
TOKENIZER_STAGES = (RepresentationStage, AutoencoderStage)
TOKENIZER = "tokenizer"  # in a leg: of which tokenizer's latents
# Mean difference of two tokenizers' normalised latents up to which they are one tokenizer, written in float16.
SAME_LATENT = 0.05


def without_places(settings: Any) -> Any:
    """Settings whose absolute paths keep their last two parts: a checkpoint is for others to read, and where data lay
    on a disk is nobody's business."""
    if isinstance(settings, dict):
        return {key: without_places(one) for key, one in settings.items()}
    if isinstance(settings, list):
        return [without_places(one) for one in settings]
    if isinstance(settings, str) and Path(settings).is_absolute():
        return "/".join(Path(settings).parts[1:][-2:])
    return settings


class Stages:
    """The stages of one config, run one by one or all in order."""

    def __init__(self, config: TrainingConfig):
        self.config = config
        publish.put_back(config.checkpoint)
        if config.init is not None and not (config.init / "vae").is_dir():
            raise ValueError(f"init={config.init} is no checkpoint folder: it has no vae")

    def names(self, wanted: str) -> list[str]:
        """The stages that "all" or a single name means; ValueError for a name that the config does not have."""
        if wanted == "all":
            return list(self.config.stages)
        if wanted not in self.config.stages:
            known = ", ".join(self.config.stages)
            raise ValueError(f"config {self.config.name} has no stage {wanted!r}; it has: {known}, all")
        return [wanted]

    def check_data(self, names: list[str]) -> None:
        """ValueError when data of a stage that is to be trained are not there: better now than hours later."""
        for name in names:
            data = getattr(self.config.stages[name], "data", None)
            if data is None or self._finished_file(name).is_file() or self.finished(name) is not None:
                continue
            if missing := missing_sources(data):
                raise ValueError(f"stage {name} has no data: {'; '.join(missing)} (docs/data.md)")

    def check_place(self, names: list[str]) -> None:
        """ValueError when what is to be trained would take the place of somebody else's transformer in the checkpoint
        folder: one that comes from legs which neither this output nor `init` has."""
        drawing, folder = publish.transformer_stages(self.config), self.config.checkpoint
        if not any(self.finished(name) is None for name in names if name in (*drawing, self.tokenizer_stage)):
            return
        own = [json.loads(self._finished_file(name).read_text(encoding="utf-8")) for name in self._finished_here()]
        if self.config.init is not None:
            own += [leg for legs in publish.read_legs(self.config.init).values() for leg in legs]
        listed = publish.read_legs(folder)
        lost = [leg for name in drawing for leg in listed.get(name, []) if leg not in own]
        if lost and (folder / "transformer").is_dir():
            raise ValueError(
                f"{folder} holds a transformer of {sum(leg['samples'] for leg in lost):,} samples of training, which "
                f"this run does not go on from and would replace: choose another checkpoint=, go on from it with "
                f"init={folder}, or remove that folder"
            )

    def check_seed(self, names: list[str]) -> None:
        """ValueError when a stage that is to begin on models of `init` would see the samples that they have seen."""
        for name in names if self.config.init is not None else ():
            begun = self._finished_file(name).is_file() or States(self.config.output / name, kept=1).all()
            if not begun and self._goes_on(name, names):
                further_leg.check_seed(self.config.init, name, self.config.seed)

    def _goes_on(self, name: str, names: list[str]) -> bool:
        """Whether a stage begins on models of `init`, itself or by way of stages before it, when `names` are run."""
        stage, before = self.config.stages[name], self._before(name)
        if isinstance(stage, DiffusionStage):
            return (self.config.init / "transformer").is_dir()
        if not isinstance(stage, AutoencoderStage) or not isinstance(self.config.stages.get(before), AutoencoderStage):
            return False
        return not (before in names or self._has_result(before)) or self._goes_on(before, names)

    def run(self, name: str, resume: bool = True, revise: bool = False) -> bool:
        """Train one stage to its end; False when it was finished already. See `Loop.run`."""
        if (leg := self.finished(name)) is not None:
            logger.info("%s is finished (%d samples, %.0f minutes): skipped", name, leg["samples"], leg["minutes"])
            return False
        with claimed(self.config.output / name) if is_main_process() else nullcontext():
            self._train(name, resume, revise)
        return True

    def _train(self, name: str, resume: bool, revise: bool) -> None:
        torch.manual_seed(self.config.seed)
        folder, stage = self.config.output / name, self.config.stages[name]
        task, basis = self._task(name), self._basis(name)
        loop = Loop(task, stage, folder, self.config.seed, basis=basis)
        progress = loop.run(resume, revise)
        if loop.accelerator.is_main_process:
            result = folder / "result"
            shutil.rmtree(result, ignore_errors=True)
            task.export(result)
            write_whole(self._finished_file(name), json.dumps(self._leg(name, progress) | basis, indent=1))
        loop.accelerator.wait_for_everyone()

    def finished(self, name: str) -> dict | None:
        """The leg of a finished stage, None when it is to be trained.

        A stage that this output finished with other settings is an error; the checkpoint's legs count when theirs are
        this config's, and those of its tokenizer too: what its single stages left it does not keep.
        """
        file = self._finished_file(name)
        if file.is_file():
            leg = json.loads(file.read_text(encoding="utf-8"))
            if not self._is_ours(name, leg):
                raise ValueError(
                    f"{file.parent} holds a finished {name} stage that was trained with other settings, sizes of "
                    "models or another seed; choose another output=, or remove that folder"
                )
            if TOKENIZER in leg and leg[TOKENIZER] != self._tokenizer():
                raise ValueError(
                    f"{file.parent} holds a finished {name} stage that was trained on the latents of another tokenizer "
                    "than there is now; choose another output=, or remove that folder"
                )
            return leg
        tokenizer = [one for one, stage in self.config.stages.items() if isinstance(stage, TOKENIZER_STAGES)]
        if self.config.init is not None or not all(self._listed(one) for one in tokenizer):
            return None
        return self._listed(name)

    def _listed(self, name: str) -> dict | None:
        """The checkpoint's newest leg of a stage that is this config's."""
        legs = publish.read_legs(self.config.checkpoint).get(name, [])
        return next((leg for leg in reversed(legs) if self._is_ours(name, leg)), None)

    def _is_ours(self, name: str, leg: dict) -> bool:
        """Whether a leg has this config's seed and the settings that decide what is learned."""
        recorded = as_recorded(self.config.stages[name], leg["settings"])
        if recorded is None or leg.get("seed", self.config.seed) != self.config.seed:
            return False
        models = self._models(name)
        if models | leg.get("models", {}) != models:
            return False
        both = (without_places(one) for one in (self.config.stages[name].model_dump(mode="json"), recorded))
        ours, theirs = ({key: value for key, value in one.items() if key not in INCIDENTAL} for one in both)
        return ours == theirs

    def _models(self, name: str) -> dict:
        """Settings of the config's models that the stage is about: its own, in a tokenizer those before it, and what
        reads texts to a transformer."""
        stage, stages = self.config.stages[name], list(self.config.stages.items())
        if isinstance(stage, AutoencoderStage):
            so_far = [one for _, one in stages[: list(self.config.stages).index(name) + 1]]
            trained = {part for one in so_far if isinstance(one, AutoencoderStage) for part in one.trains}
            parts = {"encoder", "image_size", *trained}
        elif isinstance(stage, RepresentationStage):
            parts = {"encoder", "image_size"}
        elif isinstance(stage, DiffusionStage):
            parts = {"transformer", "text_encoder"}
        else:
            parts = {"class_transformer"}
        return without_places(self.config.models.model_dump(mode="json", include=parts))

    def _basis(self, name: str) -> dict:
        """What a stage rests on besides its settings, for its state and its leg: models and, of what draws, the
        tokenizer whose latents it learns."""
        drawing = name in publish.transformer_stages(self.config)
        return {"models": self._models(name)} | ({TOKENIZER: self._tokenizer()} if drawing else {})

    def _tokenizer(self) -> str:
        """The finished tokenizer's fingerprint, as a checkpoint folder holds it, in float16."""
        return fingerprint(publish.half(self.vae()))

    def published(self) -> bool:
        """Whether the checkpoint folder has what this output finished: a run that is killed after its last step has not
        come to it. A folder that is newer than a stage's result was written by another run, which is left alone."""
        folder = self.config.checkpoint
        if not (folder / publish.TRAINING_FILE).is_file():
            return folder.is_dir()
        listed, written = publish.read_legs(folder), (folder / publish.TRAINING_FILE).stat().st_mtime
        names = self._finished_here()
        if self._drawing_stage(names) is None:
            names = [name for name in names if name not in publish.transformer_stages(self.config)]
        return all(
            json.loads(file.read_text(encoding="utf-8")) in listed.get(name, [])
            for name in names
            if (file := self._finished_file(name)).stat().st_mtime > written
        )

    def publish(self) -> None:
        """Write what this output has finished to the checkpoint folder."""
        legs = {name: self.finished(name) for name in self._finished_here()}
        drawing = self._drawing_stage(list(legs))
        if drawing is None and self.tokenizer_stage not in legs:
            return
        transformer = None
        if drawing is not None:
            diffusion = isinstance(self.config.stages[drawing], DiffusionStage)
            model = RPiAETransformer2DModel if diffusion else LightningDiT2DModel
            transformer = model.from_pretrained(self.result(drawing))
        publish.write_checkpoint(self.config, self.vae(), transformer, legs)

    def _finished_here(self) -> list[str]:
        return [name for name in self.config.stages if self._finished_file(name).is_file()]

    def _drawing_stage(self, finished: list[str]) -> str | None:
        """Of finished stages the one whose transformer is published."""
        if diffusion := [name for name in finished if isinstance(self.config.stages[name], DiffusionStage)]:
            return diffusion[-1]
        # Of several class-conditional stages the last is the model; an earlier one is for guiding it.
        classes = [n for n, s in self.config.stages.items() if isinstance(s, ClassConditionalStage)]
        return classes[-1] if classes and classes[-1] in finished else None

    def _leg(self, name: str, progress: Progress) -> dict:
        """What the model card says of a finished stage."""
        stage = self.config.stages[name]
        return {
            "stage": name,
            "samples": progress.step * stage.batch_size,
            "minutes": round(progress.seconds / 60, 1),
            "machine": machine(),
            "seed": self.config.seed,
            "settings": without_places(stage.model_dump(mode="json")),
        }

    def result(self, name: str) -> Path:
        """Folder of a finished stage's result; ValueError with the command when it is not there."""
        folder, mark = self.config.output / name / "result", self._finished_file(name)
        if not self._has_result(name):
            raise ValueError(
                f"stage {name!r} of {self.config.name} is not finished ({mark if folder.is_dir() else folder} is "
                f"missing); run: python -m train {self.config.name} {name} (with the same settings)"
            )
        return folder

    def _task(self, name: str) -> Task:
        stage, config = self.config.stages[name], self.config
        if isinstance(stage, RepresentationStage):
            return RepresentationTask(config, stage)
        if isinstance(stage, AutoencoderStage):
            return self._autoencoder_task(name, stage)
        vae = self.vae()
        if isinstance(stage, ClassConditionalStage):
            return ClassConditionalTask(stage, vae, LightningDiT2DModel(**config.models.class_transformer), config.seed)
        assert isinstance(stage, DiffusionStage)
        return DiffusionTask(config, stage, vae, self._transformer(name, vae))

    def _transformer(self, name: str, vae: AutoencoderRPiAE) -> RPiAETransformer2DModel:
        """The transformer to train: the one of the diffusion stage before, when there is one; else that of `init`,
        carried over to `vae` when it was trained on another tokenizer; else a fresh one."""
        order = [n for n, stage in self.config.stages.items() if isinstance(stage, DiffusionStage)]
        before = order[order.index(name) - 1] if order.index(name) else None
        if before is not None and self.finished(before) is not None:  # it is an error when it was of other latents
            here = self._has_result(before)
            return RPiAETransformer2DModel.from_pretrained(
                self.result(before) if here else self.config.checkpoint / "transformer"
            )
        init = self.config.init
        if init is None or not (init / "transformer").is_dir():
            if before is not None:
                self.result(before)  # it is missing: says how to train it
            return RPiAETransformer2DModel(**self.config.models.transformer)
        transformer = further_leg.load_transformer(init, self.config.models)
        before = AutoencoderRPiAE.from_pretrained(init / "vae")
        scenes = ScenePictures(self.config.seed, CARRY_TAG, CARRY_PICTURES, PictureSettings(filtered=0.2))
        pictures = collect_pictures(scenes, CARRY_PICTURES)
        with torch.no_grad():
            theirs, ours = (model.normalise(model.encode(pictures).latent_dist.mode()) for model in (before, vae))
        if theirs.shape != ours.shape:
            raise ValueError(
                f"the transformer of {init} is for latents {tuple(theirs.shape[1:])}, this tokenizer's are "
                f"{tuple(ours.shape[1:])}: leave init= out, or train a tokenizer of that size"
            )
        if (theirs - ours).abs().mean() > SAME_LATENT:
            logger.info("the transformer of %s was trained on another tokenizer: carried over", init)
            carry_over(transformer, theirs, ours)
        return transformer

    def _autoencoder_task(self, name: str, stage: AutoencoderStage) -> AutoencoderTask:
        """The stage on its forerunner's models; parts that are new get a linear start."""
        models, seed, before = self.config.models, self.config.seed, self._before(name)
        if before is None or isinstance(self.config.stages[before], RepresentationStage):
            vae = AutoencoderRPiAE(models.encoder, models.decoder, None, models.image_size)
            if before is not None:
                vae.encoder.load_state_dict(load_file(self.result(before) / "encoder.safetensors"))
            elif models.encoder_weights is not None:
                load_dinov2(vae.encoder, models.encoder_weights)
            return AutoencoderTask(vae, stage, seed, fresh=("decoder",) if stage.start == "linear" else ())
        if self.config.init is not None and not self._has_result(before):
            return AutoencoderTask(further_leg.load_tokenizer(self.config.init, models), stage, seed)
        vae = AutoencoderRPiAE.from_pretrained(self.result(before))
        if vae.bridge is not None:
            return AutoencoderTask(vae, stage, seed)
        bridged = AutoencoderRPiAE(models.encoder, models.decoder, models.bridge, models.image_size)
        bridged.encoder.load_state_dict(vae.encoder.state_dict())
        bridged.decoder.load_state_dict(vae.decoder.state_dict())
        if stage.start == "random":
            start_bridge_at_random(bridged.bridge)
            return AutoencoderTask(bridged, stage, seed)
        return AutoencoderTask(bridged, stage, seed, fresh=("bridge",))

    def _before(self, name: str) -> str | None:
        """The stage before this one, if there is one."""
        order = list(self.config.stages)
        return order[order.index(name) - 1] if order.index(name) else None

    def _finished_file(self, name: str) -> Path:
        return self.config.output / name / "finished.json"

    def _has_result(self, name: str) -> bool:
        """Whether there is a whole one: a run that is killed while it exports leaves a part of it, and no mark."""
        return self._finished_file(name).is_file() and (self.config.output / name / "result").is_dir()

    @property
    def tokenizer_stage(self) -> str | None:
        """The stage that finishes the tokenizer; None where a config trains on another one's, of `init`."""
        return next((n for n, s in reversed(self.config.stages.items()) if isinstance(s, AutoencoderStage)), None)

    def vae(self) -> AutoencoderRPiAE:
        """The finished tokenizer: of this output, else of `init`, else of the checkpoint."""
        if self.tokenizer_stage is not None and self._has_result(self.tokenizer_stage):
            return AutoencoderRPiAE.from_pretrained(self.result(self.tokenizer_stage))
        for folder in (self.config.init, self.config.checkpoint):
            if folder is not None and (folder / "vae").is_dir():
                return AutoencoderRPiAE.from_pretrained(folder / "vae")
        if self.tokenizer_stage is None:
            raise ValueError(
                f"{self.config.name} trains on a tokenizer that is there already: name its folder, init=..."
            )
        return AutoencoderRPiAE.from_pretrained(self.result(self.tokenizer_stage))


def machine() -> str:
    """This machine in words, for the model card."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} CPU cores ({platform.machine()})"
