"""ZeroGPU, the shared GPUs of Hugging Face's Spaces: the same jobs, each computed on a GPU that is lent for it.

A second way to run a request, beside the plain `Service`. `spaces` lends a GPU for as many seconds as a decorated
function asks for, on behalf of the visitor in whose request it is called; so `app.jobs` runs a job in the context of
the request that asked for it. The function itself runs in a process of its own, a copy of this one: what goes in and
comes out is pickled, and stopping it is closing its generator. Elsewhere, and without the package, it runs right here.
"""

from __future__ import annotations

import logging
import os
import queue
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

from app.outcome import Outcome, Progress, Stopped, sentence
from app.request import CompareRequest, ReconstructRequest, Request
from app.service import Service
from app.texts import say

ON = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")
if ON:
    try:
        import spaces  # before torch, which it prepares: so this module is the first that app.py imports
    except ImportError:
        ON = False

if ON:
    # Which attention is best is tried on a GPU in hand; this process never has one, and each that has is soon gone.
    os.environ.setdefault("DIFFUSERS_ATTN_BACKEND", "native")

log = logging.getLogger(__name__)

BEGINNING = 4  # seconds for a GPU to be handed over and the models to arrive on it
A_STEP = 0.06  # of one picture, with all its guidance branches, by the largest model that fits
A_TOKENIZER = 5
LONGEST = 120
_QUOTA = re.compile(r"\((\d+)s requested vs\. (-?\d+)s left\)")
_service: ZeroService | None = None  # a GPU's process finds here what this one has loaded


def seconds(request: Request) -> int:
    """For how long a request needs a GPU: as little as is honest, for short ones go first and cost a visitor less."""
    if isinstance(request, CompareRequest):
        wanted = A_TOKENIZER * len(request.tokenizers) * (2 if request.prompt else 1)  # its own model's time too
    elif isinstance(request, ReconstructRequest):
        wanted = 1
    else:
        steps = request.num_inference_steps or (_service.defaults["num_inference_steps"] if _service else 50)
        wanted = A_STEP * steps * request.count
    return min(LONGEST, round(BEGINNING + wanted))


def _lent(task: Callable[[Request], Iterator[Any]]) -> Callable[[Request], Iterator[Any]]:
    return spaces.GPU(duration=seconds)(task) if ON else task


@_lent
def compute(request: Request) -> Iterator[tuple[Any, ...] | Outcome | str]:
    """Each step as (done, total, preview), then the outcome, or the sentence that says why there is none."""
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    progress = Progress(report=lambda *step: told.put(step))

    def work() -> None:
        try:
            told.put(Service.run(_service, request, progress))
        except Exception as fault:
            told.put(sentence(fault))

    worker = threading.Thread(target=work, name="studio-gpu", daemon=True)
    worker.start()
    try:
        step = told.get()
        while isinstance(step, tuple):
            yield step
            step = told.get()
        yield step
    finally:
        progress.stop.set()
        worker.join()


class ZeroService(Service):
    """The service whose requests are computed by `compute`. It keeps the checkpoint that it began with, loaded by the
    main thread before the page is served: `spaces` packs then what every GPU is to be given."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        # A GPU is lent to one visitor, for one request.
        super().__init__(*args, **settings | {"together": 1, "warm": False})
        global _service
        _service = self

    def settle(self) -> None:
        """Nothing is compiled: what a GPU's process makes is gone with it."""

    def free(self) -> None:
        raise ValueError(say("error.zero_models"))

    def switch(self, checkpoint: str) -> None:
        raise ValueError(say("error.zero_models"))

    def run(self, request: Request, progress: Progress | None = None) -> Outcome:
        """Answers one request; see `Service.run`. A stop keeps no picture: it is gone with the GPU."""
        progress = progress or Progress()
        self.check(request)
        if progress.stop.is_set():
            raise Stopped
        steps, last = compute(request), None
        try:
            for last in steps:
                if not isinstance(last, tuple):
                    break
                progress.report(*last)
                if progress.stop.is_set():
                    raise Stopped
        except Stopped:
            raise
        except Exception as fault:  # what `spaces` says when it lends none: a gr.Error, with HTML in it
            log.warning("no shared GPU: %s", fault)
            raise ValueError(refused(fault)) from fault
        finally:
            steps.close()
        if not isinstance(last, Outcome):
            raise ValueError(last if isinstance(last, str) else say("error.zero_away"))
        return last


def refused(fault: Exception) -> str:
    """Why no GPU was lent, and what to do, in a sentence."""
    found = _QUOTA.search(str(getattr(fault, "message", fault)))
    if found is None:
        return say("error.zero_away")
    wanted, left = found.groups()
    return say("error.zero_quota", wanted=wanted, left=max(int(left), 0))
