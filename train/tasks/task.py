"""What the loop asks of a task: data, losses, a check on held-out pictures, a sheet to look at, and an export."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset


class Task(nn.Module):
    """A stage's objective around the models that it trains.

    `forward(batch)` returns named losses; "loss" is the one to minimise. It is a module so that Accelerate can wrap it
    (DDP and FSDP hook `forward`). Parameters that do not train have `requires_grad=False`.

    A batch may come in parts, on several processes or one after another, and the losses of the parts are averaged. That
    is the loss of the whole batch where every part counts alike; `counts`, `weighed` and `measure` are for the rest.
    """

    dataset: Dataset
    # The loss that shows whether training diverges.
    watched: str = "loss"

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        raise NotImplementedError

    def counts(self, part: dict) -> dict[str, Tensor]:
        """Of losses that are means over some of the values only (masked ones): over how many, in this part."""
        return {}

    @staticmethod
    def weighed(losses: dict[str, Tensor], part: dict) -> dict[str, Tensor]:
        """Losses of a part so that their mean over parts is the loss of the batch: times `part["share"]`, the part's
        count over the mean count, which the loop adds when there are several parts."""
        shares = part.get("share", {})
        for name in shares.keys() & losses.keys():
            share = shares[name]
            # Nothing to average is nothing, not 0 / 0.
            losses[name] = torch.where(share > 0, losses[name] * share, 0.0)
        return losses

    def measure(self, parts: list[dict]) -> None:
        """Called with a batch's parts when one process computes several in turn: to add to each what depends on the
        whole batch, such as statistics and adaptive weights."""

    def after_step(self, parts: list[dict]) -> dict[str, Tensor]:
        """Called when a batch's step is taken, with its parts: for what learns beside the loss and by itself, such as a
        discriminator. Returns what it has to log."""
        return {}

    def companions(self) -> list:
        """What learns in `after_step`: objects with `state_dict` and `load_state_dict`, saved with every
        state, and `parameters`."""
        return []

    def prepare(self) -> None:
        """What every run needs, fresh or resumed; called on all processes before anything else."""

    def start(self) -> None:
        """Linear starts and the like; called once, before the first step of a fresh run."""

    def compile(self) -> None:
        """Compile the parts that run in every step."""

    def validate(self) -> dict[str, float]:
        """Numbers on held-out pictures, with the weights that are in the models now."""
        return {}

    def sheet(self) -> Image.Image | None:
        """Held-out samples to look at."""
        return None

    def export(self, folder: Path) -> None:
        """Write what the next stage or the checkpoint needs."""
        raise NotImplementedError
