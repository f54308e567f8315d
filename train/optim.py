"""Optimisers: Muon for the matrices inside transformer blocks, AdamW for everything else, one rate schedule."""

import math
from typing import Literal

import torch
from torch import nn

from .config import OptimizerSettings


def build_optimizers(model: nn.Module, settings: OptimizerSettings) -> list[torch.optim.Optimizer]:
    """One or two optimisers over the parameters that train; each group remembers its full rate as `base_lr`."""
    in_blocks = {
        id(layer.weight)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and ".blocks." in f".{name}"
    }
    matrices, others = [], []
    for parameter in model.parameters():
        if parameter.requires_grad:
            by_muon = settings.muon_lr is not None and id(parameter) in in_blocks
            (matrices if by_muon else others).append(parameter)
    optimizers: list[torch.optim.Optimizer] = []
    if others:
        optimizers.append(
            torch.optim.AdamW(
                others, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
            )
        )
    if matrices:
        # Nesterov momentum, updates scaled by sqrt(max(1, rows/columns)): PyTorch's own, as Jordan et al. have it.
        optimizers.append(torch.optim.Muon(matrices, lr=settings.muon_lr, weight_decay=settings.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return optimizers


def rate(sample: int, samples: int, settings: OptimizerSettings, batch: int = 1) -> float:
    """Share of the full learning rate of the step whose `batch` samples begin with this number: warm-up, constant,
    decay."""
    # The authors' warm-up counts whole steps, ours a step's first sample: what was trained so must repeat.
    ahead = batch if settings.decay_between is not None else 1
    warm = min(1.0, (sample + ahead) / settings.warmup_samples) if settings.warmup_samples else 1.0
    if settings.decay_between is not None:
        begin, end = settings.decay_between
        left = _left(sample, begin, end, settings.decay_shape)
        return warm * (settings.final_lr + (1 - settings.final_lr) * left)
    decay_samples = settings.decay_share * samples
    if decay_samples and sample > samples - decay_samples:
        left = (samples - sample) / decay_samples
        return warm * (settings.final_lr + (1 - settings.final_lr) * max(0.0, left))
    return warm


def _left(now: float, begin: float, end: float, shape: Literal["cosine", "linear"]) -> float:
    """What is left of a decay between two moments: 1 before, 0 afterwards."""
    done = min(max((now - begin) / (end - begin), 0.0), 1.0)
    return 1 - done if shape == "linear" else 0.5 * (1 + math.cos(math.pi * done))


def set_rate(optimizers: list[torch.optim.Optimizer], share: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * share
