"""What the loop asks of a task: data, losses, a check on held-out pictures, a sheet to look at, and an export."""

from pathlib import Path

from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset


class Task(nn.Module):
    """A stage's objective around the models that it trains.

    `forward(batch)` returns named losses; "loss" is the one to minimise. It is a module so that Accelerate can wrap it
    (DDP and FSDP hook `forward`). Parameters that do not train have `requires_grad=False`.
    """

    dataset: Dataset

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        raise NotImplementedError

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
