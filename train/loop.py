"""The training loop: any task, on Accelerate, from one CPU to many GPUs.

Data, noise and weights depend on the seed and the sample number alone. So a run that was stopped and resumed repeats an
uninterrupted one bit for bit on a CPU, and a batch that is shared out over processes, or computed in parts, gives the
losses of the whole one but for rounding.
"""

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, GradientAccumulationPlugin
from accelerate.utils.memory import should_reduce_batch_size
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from .config import INCIDENTAL, StageSettings, as_recorded
from .failures import Failures
from .optim import build_optimizers, rate, set_rate
from .progress import Progress
from .runtime import mean_over_processes, not_data_parallel
from .states import Log, States, write_whole
from .tasks.task import Task

logger = logging.getLogger(__name__)

# What may change on request when a run goes on: to get past a loss that is not finite or diverges.
REVISABLE = ("optimizer", "precision")
EVERY_TRACKER = "all"  # Accelerate's word for those that are installed
# How long processes wait for the main one, which alone validates and exports.
PATIENCE = timedelta(hours=1)


class Loop:
    """Trains one task to the end of its stage; afterwards the task's models hold the averaged (EMA) weights, unless the
    settings ask for the trained ones.

    Args:
        task: the objective; `task.start()` is called for a fresh run only.
        settings: the stage; written beside the states, and compared when a run is resumed.
        folder: states, log and sheets go here; all processes must see it. Its name is the stage's.
        seed: of data and noise, for that comparison.
        key: where the stage's settings are, for messages; of a config's stages it is known.
        basis: what the task rests on besides (sizes of models, say), for that comparison, too.

    Raises:
        ValueError: a batch that cannot be shared out, or a kind of parallelism other than data-parallel.
    """

    def __init__(
        self,
        task: Task,
        settings: StageSettings,
        folder: Path,
        seed: int = 0,
        key: str | None = None,
        basis: Mapping[str, Any] = MappingProxyType({}),
    ):
        self.key = key or f"stages.{Path(folder).name}"
        self.task, self.settings, self.folder, self.seed = task, settings, Path(folder), seed
        self.basis = dict(basis)
        AcceleratorState._reset_state(reset_partial_state=True)  # stages of one process may differ in precision
        self.accelerator = Accelerator(
            mixed_precision=settings.precision,
            cpu=not torch.cuda.is_available(),
            log_with=list(settings.trackers) or None, project_dir=self.folder,
            gradient_accumulation_plugin=GradientAccumulationPlugin(settings.accumulate, sync_with_dataloader=False),
            kwargs_handlers=[
                # Buffers are constants or the same everywhere. Some parameters have no gradient in some steps.
                DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=True),
                InitProcessGroupKwargs(timeout=PATIENCE),
            ],
        )
        self._check_parallelism()
        self._check_trackers()
        self.progress = Progress()
        self.states, self.log = States(self.folder, settings.keep_states), Log(self.folder / "log.jsonl")
        self.failures = Failures(self.key, settings, self.states, task, revisable=key is None)
        self.steps = math.ceil(settings.samples / settings.batch_size)
        self._by_batches = False  # whether what is going on takes memory by the size of a batch
        self.saved_step: int | None = None
        self.last_saved = time.monotonic()

    def _check_parallelism(self) -> None:
        accelerator, settings = self.accelerator, self.settings
        known = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
        if accelerator.distributed_type not in known:
            raise not_data_parallel(accelerator.distributed_type)
        parts = accelerator.num_processes * settings.accumulate
        if settings.batch_size % parts:
            raise ValueError(
                f"{self.key}.batch_size={settings.batch_size} cannot be shared out over {accelerator.num_processes} "
                f"processes in {settings.accumulate} parts each: choose a multiple of {parts}"
            )

    def _check_trackers(self) -> None:
        there = [str(tracker) for tracker in self.accelerator.log_with]
        if missing := [name for name in self.settings.trackers if name not in (*there, EVERY_TRACKER)]:
            raise ValueError(
                f"{self.key}.trackers: the package of {', '.join(missing)} is not installed; pip install it, or leave "
                "the tracker out"
            )

    def _start_trackers(self) -> None:
        settings = self.settings.model_dump(mode="json") | {"seed": self.seed}
        flat = {name: value if isinstance(value, (int, float, str)) else str(value) for name, value in settings.items()}
        self.accelerator.init_trackers(f"{self.folder.resolve().parent.name}-{self.folder.name}", flat)

    @property
    def part_size(self) -> int:
        """Samples that a process computes at a time."""
        return self.settings.batch_size // (self.accelerator.num_processes * self.settings.accumulate)

    def run(self, resume: bool, revise: bool = False) -> Progress:
        """Train to the end.

        Args:
            resume: go on from the newest state, if there is one.
            revise: also when the optimiser or the precision are others than before.

        Raises:
            ValueError: states of another run in the folder, a loss that is not finite or diverges, or no memory; each
                with what to do.
        """
        try:
            return self._run(resume, revise)
        except RuntimeError as error:
            if "DataLoader worker" in str(error):
                raise self.failures.of_loader(self.progress.step, error) from None
            if not should_reduce_batch_size(error):
                raise
            part, where = self.part_size if self._by_batches else None, self.accelerator.device
            raise self.failures.of_memory(self.progress.step, part, where, error) from None

    def _run(self, resume: bool, revise: bool) -> Progress:
        self.folder.mkdir(parents=True, exist_ok=True)
        latest, revised = self._latest(resume, revise)
        self.task.to(self.accelerator.device)
        self.task.prepare()
        if latest is None:
            self.task.start()
        self._prepare()
        if latest is not None:
            self._load(latest)
            self.accelerator.step = 0  # states lie between steps, whatever the number of parts
            self.ema.to(self.accelerator.device)  # Accelerate loads it to the CPU
            self.saved_step = self.progress.step
            logger.info("resumed at step %d of %d", self.progress.step, self.steps)
        if self.accelerator.is_main_process:
            self.log.rewind(self.progress.step)
            if revised:
                self.log.write({"step": self.progress.step, "revised": revised})
        if self.settings.compile:
            self.task.compile()
        self._start_trackers()
        self._train()
        for tracker in self.accelerator.trackers:  # `end_training` would part the processes, and a stage may follow
            tracker.finish()
        if self.settings.result == "average":
            self.ema.copy_to(self._trainable())
        return self.progress

    def _latest(self, resume: bool, revise: bool) -> tuple[Path | None, dict]:
        """The state to go on from, and the settings that are others than before; ValueError when there is a state that
        should not be lost, or that does not fit."""
        file = self.folder / "settings.json"
        ours = {"seed": self.seed} | self.basis | self.settings.model_dump(mode="json")
        states, revised = self.states.all(), {}
        self._check_states(states)
        if states and not resume:
            raise ValueError(f"{self.folder} holds an unfinished run: go on with --resume, or remove the folder")
        if states:
            recorded = json.loads(file.read_text(encoding="utf-8"))
            other = self._compare(recorded, ours)
            if forbidden := [key for key in other if not (revise and key in REVISABLE)]:
                raise ValueError(
                    f"{self.folder} holds a run with other settings ({', '.join(forbidden)}); set them back, choose "
                    "another output=, or remove the folder. (--resume alone may change optimizer and precision.)"
                )
            revised = {key: ours[key] for key in other}
            self._check_revision(recorded.get("optimizer", {}), revised.get("optimizer"))
        self.accelerator.wait_for_everyone()  # all have read what the main process may change now
        if self.accelerator.is_main_process:
            self.states.sweep()
            write_whole(file, json.dumps(ours, indent=1) + "\n")
        return (states[-1] if states else None), revised

    def _check_states(self, states: list[Path]) -> None:
        """ValueError unless all processes go on from the same one: after the start nothing compares their weights."""
        newest = int(states[-1].name.removeprefix("state-")) if states else -1
        seen = self.accelerator.gather(torch.tensor([newest], device=self.accelerator.device)).tolist()
        if len(set(seen)) > 1:
            found = ", ".join("none" if step < 0 else f"step {step}" for step in seen)
            raise ValueError(
                f"the processes do not see the same states in {self.folder} ({found}, by process): put output= on a "
                "disk that all machines share, and wait until all of them see it alike"
            )

    def _check_revision(self, before: dict, after: dict | None) -> None:
        if after is not None and (before.get("muon_lr") is None) != (after["muon_lr"] is None):
            raise ValueError(
                f"{self.key}.optimizer.muon_lr was {before.get('muon_lr')} and is {after['muon_lr']}: a run that goes "
                "on keeps its kinds of optimiser; give it a number as before, or none as before"
            )

    def _compare(self, theirs: dict, ours: dict) -> list[str]:
        """Names of the settings that decide what is learned and differ from those written down."""
        given = {"seed": self.seed} | self.basis
        given = {name: _completed(theirs.pop(name, value), value) for name, value in given.items()}
        recorded = as_recorded(self.settings, theirs)
        theirs = given | (theirs if recorded is None else recorded)
        keys = (ours.keys() | theirs.keys()) - set(INCIDENTAL)
        return sorted(key for key in keys if ours.get(key) != theirs.get(key))

    def _prepare(self) -> None:
        optimizers = build_optimizers(self.task, self.settings.optimizer)
        prepared = self.accelerator.prepare(self.task, *optimizers)
        self.objective, self.optimizers = prepared[0], list(prepared[1:])
        # After `prepare`, which gives every process the main one's weights.
        self.ema = EMAModel(self._trainable(), decay=self.settings.ema_decay, foreach=True)
        if not self.settings.ema_warmup:
            self.ema.min_decay, self.ema.update_after_step = self.settings.ema_decay, -1
        self.ema.to(self.accelerator.device)
        self.accelerator.register_for_checkpointing(self.ema, self.progress, *self.task.companions())
        # A state holds the task's own weights, not those of its wrapper: any number of processes goes on from it.
        self.accelerator.register_save_state_pre_hook(self._unwrapped_weights)
        self.accelerator.register_load_state_pre_hook(self._unwrapped_task)

    def _load(self, state: Path) -> None:
        """Everything as it was, but for the optimisers' settings: torch brings back the saved ones, and they may have
        been revised."""
        ours = [[dict(group, params=None) for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.accelerator.load_state(str(state))
        for optimizer, groups in zip(self.optimizers, ours, strict=True):
            for group, settings in zip(optimizer.param_groups, groups, strict=True):
                group.update(settings, params=group["params"])

    def _unwrapped_weights(self, models: list, weights: list[dict], folder: str) -> None:
        weights[:] = [self.task.state_dict()]

    def _unwrapped_task(self, models: list, folder: str) -> None:
        models[:] = [self.task]

    def _trainable(self) -> list[torch.nn.Parameter]:
        return [p for p in self.task.parameters() if p.requires_grad]

    def _steps(self) -> Iterator[list[dict]]:
        """This process's batches of every step that is left: as many as the parts it computes.

        Batch k of a step goes to process k modulo their number, so all of them together are the step's samples.
        """
        settings = self.settings
        rest = range(self.progress.step * settings.batch_size, self.steps * settings.batch_size)
        loader = DataLoader(
            Subset(self.task.dataset, rest), batch_size=self.part_size, drop_last=True, num_workers=settings.workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )  # fmt: skip
        batches = iter(self.accelerator.prepare(loader))
        while parts := list(islice(batches, settings.accumulate)):
            yield parts

    def _train(self) -> None:
        settings, progress = self.settings, self.progress
        bar = tqdm(
            total=self.steps, initial=progress.step, desc=self.folder.name, unit="step", mininterval=5,
            disable=not self.accelerator.is_main_process,
        )  # fmt: skip
        began = time.monotonic() - progress.seconds
        self.task.train()
        self._by_batches = True
        for parts in self._steps():
            losses = self._step(parts)
            progress.step += 1
            progress.seconds = time.monotonic() - began
            bar.update()
            progress.add(losses)
            if progress.step % settings.log_every == 0 or progress.step == self.steps:
                means = progress.take_means()
                self._log(means, bar)
                self._watch(means)
            if progress.step % settings.validate_every == 0 or progress.step == self.steps:
                self._validate(bar)
            if self._save_is_due():
                self._save()
        self._save()
        bar.close()

    def _step(self, parts: list[dict]) -> dict[str, Tensor]:
        """One optimiser step on a batch; its losses, averaged over parts and processes."""
        settings = self.settings.optimizer
        first, batch = self.progress.step * self.settings.batch_size, self.settings.batch_size
        set_rate(self.optimizers, rate(first, self.settings.samples, settings, batch))
        self._share(parts)
        found = []
        for part in parts:
            with self.accelerator.accumulate(self.objective):
                with self.accelerator.autocast():
                    losses = self.objective(part)
                self.accelerator.backward(losses["loss"])
            found.append(torch.stack([value.detach().float() for value in losses.values()]))
        means = dict(zip(losses, mean_over_processes(torch.stack(found).mean(0)), strict=True))
        self._check_finite(means)
        self._check_gradient(settings.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.ema.step(self._trainable())
        beside = self.task.after_step(parts)
        self._check_finite(beside)
        return means | beside

    def _share(self, parts: list[dict]) -> None:
        """When a batch is computed in several places, tell each part what depends on the whole batch."""
        if self.settings.accumulate * self.accelerator.num_processes == 1:
            return
        counts = [self.task.counts(part) for part in parts]
        if counts[0]:
            own = torch.stack([torch.stack(list(count.values())).float() for count in counts])
            shares = own / mean_over_processes(own.mean(0)).clamp_min(1e-12)
            for part, share in zip(parts, shares, strict=True):
                part["share"] = dict(zip(counts[0], share, strict=True))
        if len(parts) > 1:
            with self.accelerator.autocast():
                self.task.measure(parts)

    def _check_finite(self, losses: dict[str, Tensor]) -> None:
        """Of a batch: before the step is taken, and of what learns beside the loss. On all processes alike."""
        values = [value.detach().float() for value in losses.values()]
        if values and not torch.stack(values).isfinite().all():  # one wait for a GPU, however many there are
            raise self.failures.of_losses(self.progress.step, losses)

    def _check_gradient(self, clip_norm: float | None) -> None:
        """Clip it, if asked to; ValueError before a step that would spoil the weights, when it is not finite."""
        if clip_norm is not None:
            norm = self.accelerator.clip_grad_norm_(self._trainable(), clip_norm)
        else:
            norm = get_total_norm([one.grad for one in self._trainable() if one.grad is not None], foreach=True)
        if not torch.isfinite(norm):
            raise self.failures.of_gradient(self.progress.step)

    def _watch(self, means: dict[str, float]) -> None:
        """ValueError when the task's own measure of divergence has left its lowest value far behind."""
        now, lowest, limit = means[self.task.watched], self.progress.lowest, self.settings.diverging
        if limit is not None and lowest is not None and now > limit * lowest > 0:
            raise self.failures.of_course(self.progress.step, self.task.watched, now, lowest)
        self.progress.lowest = now if lowest is None else min(lowest, now)

    def _log(self, values: dict[str, float], bar: tqdm) -> None:
        if not self.accelerator.is_main_process:
            return
        samples = self.progress.step * self.settings.batch_size
        record = {
            "step": self.progress.step, "samples": samples, "seconds": round(self.progress.seconds, 1),
            **{name: round(value, 6) for name, value in values.items()},
        }  # fmt: skip
        self.log.write(record)
        self.accelerator.log(record, step=self.progress.step)
        speed = {"samples/s": f"{samples / self.progress.seconds:.1f}"}
        bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()} | speed)

    def _validate(self, bar: tqdm) -> None:
        """Check and draw with the averaged weights, then go on with the trained ones; the other processes wait."""
        skipped = self._skipped()
        if self.accelerator.is_main_process:
            parameters = self._trainable()
            self.ema.store(parameters)
            self.ema.copy_to(parameters)
            self.task.eval()
            self._by_batches = False
            with torch.no_grad():
                self._log(self.task.validate() | skipped, bar)
                sheet = self.task.sheet()
            if sheet is not None:
                sheet.save(self.folder / f"sheet-{self.progress.step:07d}.png")
            self.ema.restore(parameters)
            self.task.train()
            self._by_batches = True
        self.accelerator.wait_for_everyone()

    def _skipped(self) -> dict[str, float]:
        """Of data that are read: rows that could not be used since this run began or went on, over all processes."""
        reader = getattr(self.task.dataset, "reader", None)
        if reader is None:
            return {}
        own = torch.tensor(float(sum(counts["skipped"] for counts in reader.counts().values())))
        mean = mean_over_processes(own.to(self.accelerator.device))
        return {"skipped": round(float(mean) * self.accelerator.num_processes)}

    def _check_weights(self) -> None:
        """A step may have been too long, also of what learns beside: such weights are no state to go on from."""
        beside = [one for companion in self.task.companions() for one in companion.parameters()]
        if not all(torch.isfinite(parameter).all() for parameter in (*self._trainable(), *beside)):
            raise self.failures.of_weights(self.progress.step)

    def _save_is_due(self) -> bool:
        """By the main process's clock, for all."""
        waited = time.monotonic() - self.last_saved > 60 * self.settings.checkpoint_minutes
        if self.accelerator.num_processes == 1:
            return waited
        due = torch.tensor(float(waited and self.accelerator.is_main_process), device=self.accelerator.device)
        return bool(mean_over_processes(due) > 0)

    def _save(self) -> None:
        """A state to go on from, unless this step has one."""
        step = self.progress.step
        if self.saved_step != step:
            self._check_weights()
            self.accelerator.save_state(str(self.states.beside(step)))
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                self.states.commit(step)
            self.accelerator.wait_for_everyone()
        self.saved_step, self.last_saved = step, time.monotonic()


def _completed(recorded: Any, ours: Any) -> Any:
    """Of a basis what was written down, with those parts of ours that are newer than it."""
    return ours | recorded if isinstance(ours, dict) and isinstance(recorded, dict) else recorded
