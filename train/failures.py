"""Why a run cannot go on, in one sentence each: what happened at which step to which samples, and what to try."""

import json

import torch
from accelerate.utils import wait_for_everyone
from torch import Tensor

from .config import StageSettings
from .data.reader import names
from .runtime import is_main_process
from .states import States, write_whole
from .tasks.task import Task

NAMED = 10  # of a batch that went wrong: so many of its rows


class Failures:
    """Of one run.

    Args:
        key: where the stage's settings are.
        revisable: whether a run may go on with other settings.
    """

    def __init__(self, key: str, settings: StageSettings, states: States, task: Task, revisable: bool):
        self.key, self.settings, self.states, self.task, self.revisable = key, settings, states, task, revisable

    def of_losses(self, step: int, losses: dict[str, Tensor]) -> ValueError:
        """A loss is not finite."""
        values = {name: float(value) for name, value in losses.items()}
        return ValueError(
            f"the loss is not finite at step {step} ({self._samples_of(step)}): {values}; {self._go_on()} a lower "
            f"learning rate ({self.key}.optimizer.lr, now {self.settings.optimizer.lr}), a longer warm-up "
            f"({self.key}.optimizer.warmup_samples) or {self.key}.precision=no"
        )

    def of_gradient(self, step: int) -> ValueError:
        """A loss is finite and its gradient is not."""
        return ValueError(
            f"the gradient is not finite at step {step} ({self._samples_of(step)}), though the loss is; "
            f"{self._go_on()} a lower learning rate ({self.key}.optimizer.lr, now {self.settings.optimizer.lr}) or "
            f"{self.key}.precision=no"
        )

    def of_weights(self, step: int) -> ValueError:
        """After a step the weights are not finite."""
        return ValueError(
            f"the weights are not finite after step {step} (up to {self._samples_of(step - 1)}); {self._go_on()} a "
            f"lower learning rate ({self.key}.optimizer.lr, now {self.settings.optimizer.lr}) or "
            f"{self.key}.optimizer.clip_norm"
        )

    def of_course(self, step: int, name: str, now: float, lowest: float) -> ValueError:
        """The loss of that name has left its lowest value far behind."""
        return ValueError(
            f"training diverges at step {step} (up to {self._samples_of(step - 1)}): {name} is {now:.4g} and was "
            f"{lowest:.4g}; {self._go_on()} a lower learning rate ({self.key}.optimizer.lr, now "
            f"{self.settings.optimizer.lr}) or a smaller {self.key}.optimizer.clip_norm, or allow it with "
            f"{self.key}.diverging=null"
        )

    def of_loader(self, step: int, error: RuntimeError) -> ValueError:
        """A process that loads data has died, or has no memory."""
        return ValueError(
            f"a process that loads data failed at step {step}, most likely for want of memory: lower "
            f"{self.key}.workers, now {self.settings.workers}, and go on with --resume ({error.args[0]})"
        )

    def of_memory(self, step: int, part: int | None, device: torch.device, error: RuntimeError) -> ValueError:
        """There is no memory for `part` samples at a time; None: for the models themselves, or for their check."""
        if part is None:
            return ValueError(
                f"out of memory at step {step} on {device}, outside of a training step: smaller batches do not help; "
                f"free memory there, or make the models smaller (models.*) ({error.args[0]})"
            )
        smaller = next((n for n in range(2, part + 1) if part % n == 0), None)
        afresh = "" if self.revisable and not self.states.all() else f" (then remove {self.states.folder} first)"
        if smaller is None:
            advice = f"a process has one sample at a time already, so {self._to_make_a_sample_smaller()}{afresh}"
        elif not self.revisable:
            advice = f"lower {self.key}.batch_size, now {self.settings.batch_size}{afresh}"
        else:
            advice = (
                f"set {self.key}.accumulate={self.settings.accumulate * smaller}, which computes {part // smaller} "
                f"samples at a time instead of {part} and learns the same (what little differs: docs/scale.md), or "
                f"lower {self.key}.batch_size{afresh}"
            )
        return ValueError(f"out of memory at step {step} on {device}: {advice} ({error.args[0]})")

    def _to_make_a_sample_smaller(self) -> str:
        """Of the settings that decide how much memory one sample takes, those that this stage can still turn."""
        settings, found = self.settings, []
        if settings.precision == "no":
            found.append(f"set {self.key}.precision=bf16")
        if getattr(settings, "draws", 1) > 1:
            found.append(f"lower {self.key}.draws, now {settings.draws}")
        if getattr(settings, "crop", None) is not None and getattr(settings, "data", None) is None:
            found.append(f"lower {self.key}.crop, now {settings.crop}")
        return ", or ".join([*found, "make the models smaller (models.*)"])

    def _samples_of(self, step: int) -> str:
        """Which samples a step had; of data that is read, also which rows the first of them are, and a file beside the
        log that names them all."""
        first, end = step * self.settings.batch_size, (step + 1) * self.settings.batch_size
        said = f"samples {first} to {end - 1}"
        if getattr(self.task.dataset, "reader", None) is None:
            return said
        found = self._rows(range(first, min(end, first + NAMED)))
        said += "".join(f"; {source}: {', '.join(ids)}" for source, ids in found.items())
        if end - first <= NAMED:
            return said
        file = self.states.folder / f"rows-{step:08d}.json"
        if is_main_process() and (found := self._rows(range(first, end))):
            write_whole(file, json.dumps(found, indent=1) + "\n")
        wait_for_everyone()  # the launcher ends all processes with the first one that fails
        return f"{said}, ...; all of them: {file}" if file.is_file() else said

    def _rows(self, samples: range) -> dict[str, list[str]]:
        try:
            return names(self.task.dataset, samples)
        except (ValueError, OSError):  # a failure to read is not what the message is about
            return {}

    def _go_on(self) -> str:
        """How to go on after a failure; the last good state is never written over by it."""
        states = self.states.all()
        if not states or not self.revisable:
            return f"it cannot go on with other settings: remove {self.states.folder} and start again with"
        return f"the last state is {states[-1].name}: go on with --resume and"
