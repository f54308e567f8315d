"""The discriminator in training: an optimiser and a rate of its own, one step after each of the task's.

It is not part of the task's module: Accelerate wraps only what the loop's own optimisers train. Its gradients are
averaged over processes here, and its state is saved beside the task's.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from .config import AutoencoderStage
from .discriminator import Discriminator, augmented, draws, quantised
from .losses import discriminator_loss
from .optim import rate, set_rate
from .runtime import mean_over_processes

# What DiffAug's draws are for: each has its own.
JUDGED, FAKE, REAL = range(3)


class Opponent:
    """Pictures come in [0, 1], (B, 3, H, W), with their sample numbers (B,), which say when it begins and what is
    drawn."""

    def __init__(self, stage: AutoencoderStage, seed: int):
        self.stage, self.settings, self.seed = stage, stage.discriminator, seed
        self.network = Discriminator.from_file(self.settings)
        optimizer = stage.optimizer
        self.optimizer = torch.optim.AdamW(
            self.parameters(),
            lr=optimizer.lr, betas=optimizer.betas, weight_decay=optimizer.weight_decay, fused=True,
        )  # fmt: skip
        self.optimizer.param_groups[0]["base_lr"] = optimizer.lr

    def to(self, *args, **kwargs) -> "Opponent":
        self.network.to(*args, **kwargs)
        return self

    def parameters(self) -> Iterable[torch.nn.Parameter]:
        """Those that learn."""
        return self.network.heads.parameters()

    def judge(self, pictures: Tensor, index: Tensor) -> Tensor:
        """Logits of reconstructions, for the generator's loss: the gradient goes to the pictures alone."""
        self.network.eval()
        self.network.heads.requires_grad_(False)
        logits = self.network(augmented(pictures * 2 - 1, draws(index, JUDGED, self.seed)))
        self.network.heads.requires_grad_(True)
        return logits.float()

    def learns(self, first: int) -> bool:
        """Whether it learns from a batch whose first sample has this number."""
        return first >= self.settings.learns_from

    def step(
        self, parts: Iterable[tuple[Tensor, Tensor]], reconstruct: Callable[[Tensor], Tensor], first: int
    ) -> dict[str, Tensor]:
        """Learn from one batch, which comes in parts: pictures and their numbers.

        Args:
            reconstruct: by the tokenizer as it is now, without noise.
            first: the number of the whole batch's first sample.
        """
        self._set_rate(first)
        self.network.train()
        parts, found = list(parts), []
        for real, index in parts:
            with torch.autocast(real.device.type, torch.bfloat16, enabled=self.stage.precision == "bf16"):
                with torch.no_grad():
                    fake = quantised(reconstruct(real).float() * 2 - 1)
                fake = augmented(fake, draws(index, FAKE, self.seed))
                real = augmented(real * 2 - 1, draws(index, REAL, self.seed))
                of_fake, of_real = self.network(torch.cat([fake, real])).float().chunk(2)
                loss = discriminator_loss(of_real, of_fake)
            (loss / len(parts)).backward()
            found.append(torch.stack([loss.detach(), (of_real > of_fake).float().mean()]))
        for parameter in self.network.heads.parameters():
            parameter.grad = mean_over_processes(parameter.grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        names = ("discriminator", "discriminator_accuracy")
        return dict(zip(names, mean_over_processes(torch.stack(found).mean(0)), strict=True))

    def _set_rate(self, first: int) -> None:
        sample = first - self.settings.learns_from if self.settings.schedule == "own" else first
        stage = self.stage
        set_rate([self.optimizer], rate(sample, stage.samples, stage.optimizer, stage.batch_size))

    def state_dict(self) -> dict:
        return {"heads": self.network.heads.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.network.heads.load_state_dict(state["heads"])
        ours = dict(self.optimizer.param_groups[0], params=None)  # which may have been revised
        self.optimizer.load_state_dict(state["optimizer"])
        group = self.optimizer.param_groups[0]
        group.update(ours, params=group["params"])
