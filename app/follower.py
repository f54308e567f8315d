"""The line between a pipeline at work and the people who wait: progress, previews, stopping.

A batch may hold the pictures of several requests. Each has its own share of it and its own line: stopping one leaves
the others, whose steps go on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL import Image

from app.outcome import Progress

if TYPE_CHECKING:
    from torch import Tensor

PREVIEW_EVERY = 0.4  # seconds between live previews: a decode of the prediction costs about as much as a step


@dataclass
class Share:
    """One request's pictures in a batch. `stopped_at`: the step after which it was stopped, with `kept` as its end."""

    progress: Progress
    rows: slice
    shown: float = field(default_factory=time.monotonic)
    stopped_at: int | None = None
    kept: Tensor | None = None


class Follower:
    """A pipeline's callback: passes progress on, shows previews, and stops after the step in which asked to.

    Args:
        total: steps.
        lines: each request's progress and how many pictures of the batch are its own, in the batch's order.
    """

    def __init__(self, total: int, lines: Sequence[tuple[Progress, int]]) -> None:
        self.total = total
        self.shares: list[Share] = []
        begin = 0
        for progress, count in lines:
            self.shares.append(Share(progress, slice(begin, begin + count)))
            begin += count

    def __call__(self, pipeline: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        done = index + 1
        going = [share for share in self.shares if share.stopped_at is None]
        for share in going:
            if share.progress.stop.is_set() and done < self.total:
                # What the model expects at the end, not the noisy latents.
                share.stopped_at, share.kept = done, values["prediction"][share.rows]
        previews = self._previews(pipeline, done, values)
        for share in going:
            share.progress.report(done, self.total, previews.get(share.rows.start))
        stopped = [share for share in self.shares if share.stopped_at is not None]
        if not stopped:
            return {}
        if len(stopped) == len(self.shares):
            pipeline.interrupt()
        latents = values["latents"].clone()
        for share in stopped:
            latents[share.rows] = share.kept
        return {"latents": latents}

    def _previews(self, pipeline: Any, done: int, values: dict[str, Any]) -> dict[int, Image.Image]:
        """Each request's first picture as the model now expects it, now and then, by its row; all that are due are
        decoded at once."""
        now = time.monotonic()
        due = [share for share in self.shares if share.stopped_at is None and now - share.shown >= PREVIEW_EVERY]
        if not due or done == self.total:
            return {}
        rows = [share.rows.start for share in due]
        shown = pipeline.decode_preview(values["prediction"][rows])
        for share in due:
            share.shown = time.monotonic()
        return dict(zip(rows, shown, strict=True))
