"""Process set-up: threads, logging, seeds."""

import logging
import os

import torch
from torch import nn

from .config import TrainingConfig


def set_up(config: TrainingConfig) -> None:
    """Threads, logging and the global seed (models' random weights; data and noise have seeds of their own)."""
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("train").setLevel(logging.INFO)
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def device() -> str:
    """Where to run: the GPU when there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def compile_methods(module: nn.Module, *names: str) -> None:
    """Compile methods of one module in place. (`Module.compile` reaches `forward` alone.)"""
    # A graph that adaptive weights walk twice must keep its buffers.
    torch._functorch.config.donated_buffer = False
    for name in names:
        setattr(module, name, torch.compile(getattr(module, name)))
