"""The studio's work without a page: one loaded pipeline, requests in, outcomes out, mistakes as sentences.

Requests are answered by one thread at a time (the worker of `app.jobs`); everything else may be called from several.
`rpiae` is imported inside the functions, see `app.library`.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from app.comparison import Comparison
from app.library import import_library
from app.outcome import Facts, Outcome, Picture, Progress, Stopped, sentence
from app.request import CompareRequest, EditRequest, GenerateRequest, ReconstructRequest, Request
from app.texts import say

if TYPE_CHECKING:
    from rpiae import RPiAEPipeline
    from rpiae.recipe import Recipe

log = logging.getLogger(__name__)

FALLBACK_DEFAULTS = {"num_inference_steps": 30, "guidance_scale": 3.0, "image_guidance_scale": 1.5}
MOST = 0.6  # of a picture: an edit of more is one of the whole picture
PREVIEW_EVERY = 0.4  # seconds between live previews: a decode of the prediction costs about as much as a step


class Service:
    """Loads one checkpoint when first needed and answers requests with it."""

    def __init__(self, checkpoint: str | Path, device: str | None = None) -> None:
        self.checkpoint = str(checkpoint)
        self.device = device
        self.facts: Facts | None = None
        self.failure: str | None = None
        self._pipeline: RPiAEPipeline | None = None
        self._loading = threading.Lock()

    @cached_property
    def comparison(self) -> Comparison:
        """What answers comparisons."""
        return Comparison(self.checkpoint, self.side, self.device or "cpu")

    @property
    def state(self) -> str:
        """ "waiting", "ready" or "failed"."""
        return "failed" if self.failure else "ready" if self.facts else "waiting"

    @property
    def name(self) -> str:
        """The checkpoint's short name."""
        return Path(self.checkpoint.removeprefix("hf:")).name

    @property
    def defaults(self) -> dict[str, float]:
        """The checkpoint's own sampling settings; read from its folder until it is loaded."""
        loaded = self._pipeline and self._pipeline.config.defaults
        saved = loaded or self._config("model_index.json").get("defaults")
        known = saved if isinstance(saved, Mapping) else {}
        return {name: known.get(name, value) for name, value in FALLBACK_DEFAULTS.items()}

    @cached_property
    def side(self) -> int:
        """The side in pixels of the square that the checkpoint works on."""
        return int(self._config("vae/config.json").get("image_size") or 256)

    def load(self) -> None:
        """Loads and warms up the pipeline; does nothing when it is there. ValueError says what is wrong with it."""
        with self._loading:
            if self._pipeline is not None:
                return
            start = time.perf_counter()
            try:
                import_library()
                pipeline = self._read()
                self._warm_up(pipeline)
                facts = self._facts(pipeline, time.perf_counter() - start)
            except Exception as fault:
                self.failure = sentence(fault)
                if isinstance(fault, ValueError):
                    raise
                log.exception("loading %s failed", self.checkpoint)
                raise ValueError(self.failure) from fault
            self._pipeline, self.facts, self.failure = pipeline, facts, None

    def run(self, request: Request, progress: Progress | None = None) -> Outcome:
        """Answers one request. ValueError for a person's mistake, Stopped when stopped with nothing to show."""
        progress = progress or Progress()
        self.load()
        if progress.stop.is_set():
            raise Stopped
        start = time.perf_counter()
        work = {
            GenerateRequest: self._sample,
            EditRequest: self._sample,
            ReconstructRequest: self._reconstruct,
            CompareRequest: self.comparison.run,
        }[type(request)]
        return replace(work(request, progress), seconds=time.perf_counter() - start)

    def _config(self, name: str) -> dict[str, Any]:
        """A config file of the checkpoint; {} while it is on the hub, or broken: `load` will say so."""
        try:
            config = json.loads((Path(self.checkpoint) / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return config if isinstance(config, dict) else {}

    # loading

    def _read(self) -> RPiAEPipeline:
        import torch

        from rpiae import RPiAEPipeline

        pipeline = RPiAEPipeline.from_pretrained(self.checkpoint)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @staticmethod
    def _warm_up(pipeline: RPiAEPipeline) -> None:
        """One step of each kind of work, so that the first person does not wait for lazy set-up."""
        grey = Image.new("RGB", (64, 64), (128, 128, 128))
        pipeline("a grey square", num_inference_steps=1)
        pipeline("make it grey", image=grey, num_inference_steps=1)

    def _facts(self, pipeline: RPiAEPipeline, seconds: float) -> Facts:
        about = self._about(pipeline)
        return Facts(
            name=self.name,
            device=str(about["device"]).replace("cpu", "CPU").replace("cuda", "GPU"),
            dtype=about["dtype"],
            attention=about["attention"],
            sha256=about["checkpoint_sha256"],
            seconds=seconds,
        )

    def _about(self, pipeline: RPiAEPipeline) -> dict[str, Any]:
        """The part of every recipe that says what ran where."""
        from rpiae.recipe import describe_pipeline

        return describe_pipeline(pipeline, self.checkpoint)

    def _recipe(self, request: Request, seed: int | None, image: Image.Image) -> Recipe:
        """What repeats this picture, with the checkpoint's own settings written out."""
        from rpiae.recipe import Recipe, pixels_sha256

        asked: dict[str, Any] = {}
        if isinstance(request, (GenerateRequest, EditRequest)):
            defaults = self.defaults
            asked = {
                "prompt": request.prompt,
                "negative_prompt": request.negative_prompt or None,
                "seed": seed,
            }
            for name in ("num_inference_steps", "guidance_scale", "image_guidance_scale"):
                if hasattr(request, name):
                    value = getattr(request, name)
                    asked[name] = defaults[name] if value is None else value
            asked["preserve_unchanged"] = getattr(request, "preserve_unchanged", None)
        for part in ("source", "mask"):
            picture = getattr(request, part, None)
            asked[f"{part}_sha256"] = None if picture is None else pixels_sha256(picture)
        size = {"width": image.width, "height": image.height}
        return Recipe(kind=request.kind, **asked, **size, **self._about(self._pipeline))

    # before a request: what the page asks about pictures and tokenizers

    @staticmethod
    def picture(path: str | Path | None) -> Image.Image:
        """An uploaded file as the models take it: upright, on white, RGB. ValueError says why it cannot be."""
        if not path:
            raise ValueError(say("error.no_picture"))
        import_library()
        from rpiae import images

        return images.load(path)

    def describe(self, path: str | Path, editing: bool = False) -> str:
        """One line on a file: its size, and what will be done to it. ValueError says why it cannot be used."""
        import_library()
        from rpiae import images

        images.load(path)  # the header alone does not show that a file is cut off
        about = images.describe(path)
        width, height = about.size
        parts = [say("picture.size", width=width, height=height)]
        parts += [say("picture.turned")] * about.turned
        parts += [say("picture.flattened")] * about.had_alpha
        parts += [say("picture.animated")] * about.animated
        line = ", ".join(parts) + "."
        if editing and about.size != (self.side, self.side):
            line += " " + say("picture.worked_on", side=self.side, width=width, height=height)
        return line

    def tokenizers(self) -> list[str]:
        """The tokenizers that can be compared here, RPiAE first."""
        import_library()
        return self.comparison.names()

    # answering

    def _sample(self, request: GenerateRequest | EditRequest, progress: Progress) -> Outcome:
        import torch

        named = ("num_inference_steps", "guidance_scale", "image_guidance_scale", "preserve_unchanged")
        settings = {name: value for name in named if (value := getattr(request, name, None)) is not None}
        if isinstance(request, EditRequest):
            settings |= {"image": [request.source] * request.count, "mask_image": request.mask}
        follower = _Follower(
            settings.get("num_inference_steps") or self.defaults["num_inference_steps"], progress
        )
        output = self._pipeline(
            [request.prompt] * request.count,
            negative_prompt=request.negative_prompt or None,
            generator=[torch.Generator().manual_seed(seed) for seed in request.seeds],
            callback_on_step_end=follower,
            **settings,
        )
        partial = follower.stopped_at is not None
        masks = output.change_masks or [None] * request.count
        pictures = tuple(
            Picture(image, seed, self._recipe(request, seed, image), mask, partial)
            for image, mask, seed in zip(output.images, masks, request.seeds, strict=True)
        )
        return Outcome(pictures=pictures, stopped_at=follower.stopped_at, notes=self._notes(request, pictures))

    def _notes(self, request: Request, pictures: tuple[Picture, ...]) -> tuple[str, ...]:
        """A large picture that was redrawn as a whole has lost detail: that is said, not left to be found."""
        if not isinstance(request, EditRequest) or max(request.source.size) <= self.side:
            return ()
        masks = [picture.change_mask for picture in pictures]
        whole = not request.preserve_unchanged or any(mask is not None and _coverage(mask) > MOST for mask in masks)
        return (say("note.detail", side=self.side),) if whole else ()

    def _reconstruct(self, request: ReconstructRequest, progress: Progress) -> Outcome:
        image = self._pipeline.reconstruct(request.source)
        progress.report(1, 1, None)
        return Outcome(pictures=(Picture(image, None, self._recipe(request, None, image)),))



class _Follower:
    """The pipeline's callback: passes progress on, shows previews, and stops after the step in which asked to."""

    def __init__(self, total: int, progress: Progress) -> None:
        self.total, self.progress = total, progress
        self.stopped_at: int | None = None
        self._shown = time.monotonic()

    def __call__(
        self, pipeline: RPiAEPipeline, index: int, timestep: Any, values: dict[str, Any]
    ) -> dict[str, Any]:
        done = index + 1
        stopping = self.progress.stop.is_set() and done < self.total
        self.progress.report(done, self.total, None if stopping else self._preview(pipeline, done, values))
        if stopping:
            self.stopped_at = done
            pipeline.interrupt()
            return {
                "latents": values["prediction"]
            }  # what the model expects at the end, not the noisy latents
        return {}

    def _preview(self, pipeline: RPiAEPipeline, done: int, values: dict[str, Any]) -> Image.Image | None:
        """The picture as the model now expects it, now and then: a decode costs about as much as a step."""
        now = time.monotonic()
        if not self.progress.preview or done == self.total or now - self._shown < PREVIEW_EVERY:
            return None
        preview = pipeline.decode_preview(values["prediction"][:1])[0]
        self._shown = time.monotonic()
        return preview


def _coverage(mask: Image.Image) -> float:
    """The share of a mask that is not 0."""
    return 1 - mask.histogram()[0] / (mask.width * mask.height)


def check_checkpoint(checkpoint: str) -> None:
    """ValueError when a folder is plainly no checkpoint: the cheap look, before anything is imported."""
    if not checkpoint.startswith("hf:") and not (Path(checkpoint) / "model_index.json").is_file():
        raise ValueError(say("error.checkpoint", folder=checkpoint))


