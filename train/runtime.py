"""Process set-up: threads, logging, seeds."""

import logging
import os

import torch

from .config import TrainingConfig


def set_up(config: TrainingConfig) -> None:
    """Threads, logging and the global seed (models' random weights; data and noise have seeds of their own)."""
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("train").setLevel(logging.INFO)
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
