"""The line between a pipeline at work and the person who waits: progress, previews, stopping."""

from __future__ import annotations

import time
from typing import Any

from PIL import Image

from app.outcome import Progress

PREVIEW_EVERY = 0.4  # seconds between live previews: a decode of the prediction costs about as much as a step


class Follower:
    """A pipeline's callback: passes progress on, shows previews, and stops after the step in which asked to."""

    def __init__(self, total: int, progress: Progress) -> None:
        self.total, self.progress = total, progress
        self.stopped_at: int | None = None
        self._shown = time.monotonic()

    def __call__(self, pipeline: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        done = index + 1
        stopping = self.progress.stop.is_set() and done < self.total
        self.progress.report(done, self.total, None if stopping else self._preview(pipeline, done, values))
        if stopping:
            self.stopped_at = done
            pipeline.interrupt()
            return {"latents": values["prediction"]}  # what the model expects at the end, not the noisy latents
        return {}

    def _preview(self, pipeline: Any, done: int, values: dict[str, Any]) -> Image.Image | None:
        """The picture as the model now expects it, now and then: a decode costs about as much as a step."""
        now = time.monotonic()
        if not self.progress.preview or done == self.total or now - self._shown < PREVIEW_EVERY:
            return None
        preview = pipeline.decode_preview(values["prediction"][:1])[0]
        self._shown = time.monotonic()
        return preview
