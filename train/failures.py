"""Why a run cannot go on, in one sentence each: what happened at which step to which samples, and what to try."""

import torch
from torch import Tensor

from .config import StageSettings
from .data.reader import names
from .states import States
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

    def of_memory(self, step: int, part: int, device: torch.device, error: RuntimeError) -> ValueError:
        """There is no memory for `part` samples at a time."""
        smaller = next((n for n in range(2, part + 1) if part % n == 0), None)
        advice = f"{self.key}.batch_size must be lower, or the models smaller: a process has one sample at a time"
        if smaller is not None:
            advice = (
                f"set {self.key}.accumulate={self.settings.accumulate * smaller}, which computes {part // smaller} "
                f"samples at a time instead of {part} and gives the same curve, or lower {self.key}.batch_size"
            )
        return ValueError(f"out of memory at step {step} on {device}: {advice} ({error.args[0]})")

    def _samples_of(self, step: int) -> str:
        """Which samples a step had; of data that is read, also which rows the first of them are."""
        first, end = step * self.settings.batch_size, (step + 1) * self.settings.batch_size
        try:
            found = names(self.task.dataset, range(first, min(end, first + NAMED)))
        except (ValueError, OSError):  # a failure to read is not what the message is about
            found = {}
        rows = "".join(f"; {source}: {', '.join(ids)}" for source, ids in found.items())
        more = ", ..." if rows and end - first > NAMED else ""
        return f"samples {first} to {end - 1}{rows}{more}"

    def _go_on(self) -> str:
        """How to go on after a failure; the last good state is never written over by it."""
        states = self.states.all()
        if not states or not self.revisable:
            return f"it cannot go on with other settings: remove {self.states.folder} and start again with"
        return f"the last state is {states[-1].name}: go on with --resume and"
