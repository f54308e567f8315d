"""Runs the stages of a training config and hands their results on.

    representation → pivot → bridge → decoder        the tokenizer (the checkpoint's vae)
                                      → text / edit  the diffusion transformer

Each stage's result lies in <output>/<stage>/result; what is finished is skipped.
"""

import json
import logging
import platform
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from rpiae.autoencoder import AutoencoderRPiAE

from .config import AutoencoderStage, DiffusionStage, RepresentationStage, TrainingConfig
from .loop import Loop, Progress
from .tasks.autoencoder import AutoencoderTask
from .tasks.diffusion import DiffusionTask
from .tasks.representation import RepresentationTask
from .tasks.task import Task

logger = logging.getLogger(__name__)


class Stages:
    """The stages of one config, run one by one or all in order."""

    def __init__(self, config: TrainingConfig):
        self.config = config

    def names(self, wanted: str) -> list[str]:
        """The stages that "all" or a single name means; ValueError for a name that the config does not have."""
        if wanted == "all":
            return list(self.config.stages)
        if wanted not in self.config.stages:
            known = ", ".join(self.config.stages)
            raise ValueError(f"config {self.config.name} has no stage {wanted!r}; it has: {known}, all")
        return [wanted]

    def run(self, name: str, resume: bool = True) -> None:
        """Train one stage to its end, unless it is finished already."""
        folder = self.config.output / name
        if (folder / "finished.json").is_file():
            logger.info("%s is finished: %s", name, folder / "result")
            return
        if not resume:
            shutil.rmtree(folder, ignore_errors=True)
        torch.manual_seed(self.config.seed)
        stage = self.config.stages[name]
        task = self._task(name)
        progress = Loop(task, stage, folder).run(resume)
        result = folder / "result"
        shutil.rmtree(result, ignore_errors=True)
        task.export(result)
        (folder / "finished.json").write_text(json.dumps(self._leg(name, progress), indent=1), encoding="utf-8")

    def _leg(self, name: str, progress: Progress) -> dict:
        """What the model card says of a finished stage."""
        stage = self.config.stages[name]
        return {
            "stage": name,
            "samples": progress.step * stage.batch_size,
            "minutes": round(progress.seconds / 60, 1),
            "machine": machine(),
            "settings": stage.model_dump(mode="json"),
        }

    def result(self, name: str) -> Path:
        """Folder of a finished stage's result; ValueError with the command when it is not there."""
        folder = self.config.output / name / "result"
        if not folder.is_dir():
            raise ValueError(
                f"stage {name!r} of {self.config.name} is not finished ({folder} is missing); "
                f"run: python -m train {self.config.name} {name}"
            )
        return folder

    def _task(self, name: str) -> Task:
        stage, config = self.config.stages[name], self.config
        if isinstance(stage, RepresentationStage):
            return RepresentationTask(config, stage)
        if isinstance(stage, AutoencoderStage):
            return self._autoencoder_task(name, stage)
        assert isinstance(stage, DiffusionStage)
        return DiffusionTask(config, stage, self.vae())

    def _autoencoder_task(self, name: str, stage: AutoencoderStage) -> AutoencoderTask:
        models = self.config.models
        before = list(self.config.stages)[list(self.config.stages).index(name) - 1]
        if isinstance(self.config.stages[before], RepresentationStage):
            vae = AutoencoderRPiAE(models.encoder, models.decoder, None, models.image_size)
            vae.encoder.load_state_dict(load_file(self.result(before) / "encoder.safetensors"))
            return AutoencoderTask(vae, stage, self.config.seed, fresh=("decoder",))
        vae = AutoencoderRPiAE.from_pretrained(self.result(before))
        if vae.bridge is not None:
            return AutoencoderTask(vae, stage, self.config.seed)
        bridged = AutoencoderRPiAE(models.encoder, models.decoder, models.bridge, models.image_size)
        bridged.encoder.load_state_dict(vae.encoder.state_dict())
        bridged.decoder.load_state_dict(vae.decoder.state_dict())
        return AutoencoderTask(bridged, stage, self.config.seed, fresh=("bridge",))

    def vae(self) -> AutoencoderRPiAE:
        """The finished tokenizer: of this output, or of the checkpoint that `init` names."""
        last = [n for n, s in self.config.stages.items() if isinstance(s, AutoencoderStage)][-1]
        if self.config.init is not None and not (self.config.output / last / "result").is_dir():
            return AutoencoderRPiAE.from_pretrained(self.config.init / "vae", torch_dtype=torch.float32)
        return AutoencoderRPiAE.from_pretrained(self.result(last))


def machine() -> str:
    """This machine in words, for the model card."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} CPU cores ({platform.machine()})"
