"""The training loop: any task, on Accelerate, one process on a CPU or a GPU.

Data, noise and weights depend on the seed and the sample number alone, so a run that was stopped and resumed repeats
an uninterrupted one bit for bit on a CPU.
"""

import json
import logging
import math
import shutil
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from .config import StageSettings
from .optim import build_optimizers, rate, set_rate
from .tasks.task import Task

logger = logging.getLogger(__name__)
KEPT_STATES = 2


class Progress:
    """Steps and seconds so far, saved with the state."""

    def __init__(self):
        self.step = 0
        self.seconds = 0.0

    def state_dict(self) -> dict:
        return {"step": self.step, "seconds": self.seconds}

    def load_state_dict(self, state: dict) -> None:
        self.step, self.seconds = state["step"], state["seconds"]


class Loop:
    """Trains one task to the end of its stage; afterwards the task's models hold the averaged (EMA) weights.

    Args:
        task: the objective; `task.start()` is called for a fresh run only.
        settings: the stage; written beside the states, and compared when a run is resumed.
        folder: states, log and sheets go here.
        seed: of data and noise, for that comparison.

    Raises:
        ValueError: several processes (not supported yet), or states of another run in the folder.
    """

    def __init__(self, task: Task, settings: StageSettings, folder: Path, seed: int = 0):
        self.task, self.settings, self.folder, self.seed = task, settings, Path(folder), seed
        AcceleratorState._reset_state(reset_partial_state=True)  # stages of one process may differ in precision
        self.accelerator = Accelerator(mixed_precision=settings.precision, cpu=not torch.cuda.is_available())
        if self.accelerator.num_processes > 1:
            raise ValueError(
                f"training runs on one process for now, not on {self.accelerator.num_processes}; start it without "
                "accelerate launch"
            )
        self.progress = Progress()
        self.steps = math.ceil(settings.samples / settings.batch_size)
        self.last_saved = time.monotonic()

    def run(self, resume: bool) -> Progress:
        self.folder.mkdir(parents=True, exist_ok=True)
        latest = self._latest(resume)
        self.task.to(self.accelerator.device)
        if latest is None:
            self.task.start()
        self._prepare()
        if latest is not None:
            self.accelerator.load_state(str(latest))
            self.ema.to(self.accelerator.device)  # Accelerate loads it to the CPU
            logger.info("resumed at step %d of %d", self.progress.step, self.steps)
        if self.settings.compile:
            self.task.compile()
        self._train()
        self.ema.copy_to(self._trainable())
        return self.progress

    def _latest(self, resume: bool) -> Path | None:
        """The state to go on from; ValueError when there is one that should not be lost, or that does not fit."""
        file = self.folder / "settings.json"
        ours = {"seed": self.seed} | self.settings.model_dump(mode="json")
        states = self._states()
        if states and not resume:
            raise ValueError(f"{self.folder} holds an unfinished run: go on with --resume, or remove the folder")
        if states and (theirs := json.loads(file.read_text(encoding="utf-8"))) != ours:
            other = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
            raise ValueError(
                f"{self.folder} holds a run with other settings ({', '.join(other)}); set them back, choose another "
                "output=, or remove the folder"
            )
        file.write_text(json.dumps(ours, indent=1) + "\n", encoding="utf-8")
        return states[-1] if states else None

    def _prepare(self) -> None:
        optimizers = build_optimizers(self.task, self.settings.optimizer)
        self.ema = EMAModel(self._trainable(), decay=self.settings.ema_decay, foreach=True)
        self.ema.to(self.accelerator.device)
        prepared = self.accelerator.prepare(self.task, *optimizers)
        self.objective, self.optimizers = prepared[0], list(prepared[1:])
        self.accelerator.register_for_checkpointing(self.ema, self.progress)

    def _trainable(self) -> list[torch.nn.Parameter]:
        return [p for p in self.task.parameters() if p.requires_grad]

    def _batches(self) -> DataLoader:
        size = self.settings.batch_size
        rest = range(self.progress.step * size, self.steps * size)
        loader = DataLoader(Subset(self.task.dataset, rest), batch_size=size, drop_last=True)
        return self.accelerator.prepare(loader)

    def _train(self) -> None:
        settings, progress = self.settings, self.progress
        bar = tqdm(
            total=self.steps, initial=progress.step, desc=self.folder.name, unit="step", mininterval=5,
            disable=not self.accelerator.is_main_process,
        )  # fmt: skip
        began = time.monotonic() - progress.seconds
        totals: dict[str, torch.Tensor] = {}
        count = 0
        self.task.train()
        for batch in self._batches():
            if progress.step >= self.steps:
                break
            losses = self._step(batch)
            progress.step += 1
            progress.seconds = time.monotonic() - began
            bar.update()
            count += 1
            for name, value in losses.items():
                totals[name] = totals.get(name, 0) + value.detach()
            if progress.step % settings.log_every == 0 or progress.step == self.steps:
                self._log({name: float(total) / count for name, total in totals.items()}, bar)
                totals, count = {}, 0
            if progress.step % settings.validate_every == 0 or progress.step == self.steps:
                self._validate(bar)
            if time.monotonic() - self.last_saved > 60 * settings.checkpoint_minutes:
                self._save()
        self._save()
        bar.close()

    def _step(self, batch: dict) -> dict[str, torch.Tensor]:
        settings = self.settings.optimizer
        set_rate(self.optimizers, rate(self.progress.step * self.settings.batch_size, self.settings.samples, settings))
        with self.accelerator.autocast():
            losses = self.objective(batch)
        loss = losses["loss"]
        if not torch.isfinite(loss):
            values = {name: float(value.detach()) for name, value in losses.items()}
            raise ValueError(
                f"the loss is not finite at step {self.progress.step}: {values}; resume from the last state with a "
                "lower learning rate (stages.<stage>.optimizer.lr) or precision=no"
            )
        self.accelerator.backward(loss)
        if settings.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self._trainable(), settings.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.ema.step(self._trainable())
        return losses

    def _log(self, values: dict[str, float], bar: tqdm) -> None:
        samples = self.progress.step * self.settings.batch_size
        record = {
            "step": self.progress.step, "samples": samples, "seconds": round(self.progress.seconds, 1),
            **{name: round(value, 6) for name, value in values.items()},
        }  # fmt: skip
        if self.accelerator.is_main_process:
            with open(self.folder / "log.jsonl", "a", encoding="utf-8") as stream:
                stream.write(json.dumps(record) + "\n")
            speed = {"samples/s": f"{samples / self.progress.seconds:.1f}"}
            bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()} | speed)

    def _validate(self, bar: tqdm) -> None:
        """Check and draw with the averaged weights, then go on with the trained ones."""
        if not self.accelerator.is_main_process:
            return
        parameters = self._trainable()
        self.ema.store(parameters)
        self.ema.copy_to(parameters)
        self.task.eval()
        with torch.no_grad():
            self._log(self.task.validate(), bar)
            sheet = self.task.sheet()
        if sheet is not None:
            sheet.save(self.folder / f"sheet-{self.progress.step:07d}.png")
        self.ema.restore(parameters)
        self.task.train()

    def _states(self) -> list[Path]:
        return sorted(p for p in self.folder.glob("state-*") if not p.name.endswith(".part"))

    def _save(self) -> None:
        """State to resume from: written beside its place, then renamed, so that it is whole or not there."""
        final = self.folder / f"state-{self.progress.step:08d}"
        part = final.with_name(final.name + ".part")
        self.accelerator.save_state(str(part))
        if self.accelerator.is_main_process:
            shutil.rmtree(final, ignore_errors=True)
            part.rename(final)
            for old in self._states()[:-KEPT_STATES]:
                shutil.rmtree(old)
        self.last_saved = time.monotonic()
