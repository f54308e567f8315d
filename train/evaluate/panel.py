"""A panel of judges, one on each core: reading one picture takes up to some seconds."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

from ..data.scenes import VOCABULARY
from .bank import bank
from .judge import Verdict


def judge_all(
    judge: Callable[[np.ndarray, Any], Verdict], pictures: Sequence[np.ndarray], wanted: Sequence[Any]
) -> list[Verdict]:
    """`judge` (`judge_scene`, `judge_claims`) of each picture and what it should show, in their order.

    Processes are forked, so that all judge by the vocabulary as it is here and now (`train.study.world.inhabited`);
    judges compute with numpy alone, which may be forked. Where there is no fork, or one core, pictures wait in line.
    """
    pairs = list(zip(pictures, wanted, strict=True))
    processes = min(_cores(), len(pairs))
    if processes < 2 or "fork" not in multiprocessing.get_all_start_methods():
        return [judge(*pair) for pair in pairs]
    for size in VOCABULARY.sizes:
        bank(size)  # here, for all of them
    with ProcessPoolExecutor(processes, multiprocessing.get_context("fork")) as panel:
        return list(panel.map(judge, *zip(*pairs, strict=True)))


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
