"""The studio's work without a page: one loaded pipeline, requests in, outcomes out, mistakes as sentences.

`rpiae` is imported inside the functions: torch and diffusers take seconds to import, and the page must not wait
for them. A service is used by one thread at a time (the worker of `app.jobs`); only `load` may be called from several.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from app.request import CompareRequest, EditRequest, GenerateRequest, ReconstructRequest, Request
from app.texts import say

if TYPE_CHECKING:
    from rpiae import RPiAEPipeline
    from rpiae.recipe import Recipe

log = logging.getLogger(__name__)

FALLBACK_DEFAULTS = {"num_inference_steps": 30, "guidance_scale": 3.0, "image_guidance_scale": 1.5}
PREVIEW_EVERY = 0.4  # seconds between live previews: a decode of the prediction costs about as much as a step


@dataclass(frozen=True)
class Picture:
    """One finished picture. `change_mask`: "L", white where an edit changed it; `recipe`: what repeats it."""

    image: Image.Image
    seed: int | None
    recipe: Recipe | None
    change_mask: Image.Image | None = None
    partial: bool = False


@dataclass(frozen=True)
class Row:
    """One tokenizer in a comparison; `error` says why the rest is missing."""

    name: str
    error: str | None = None
    psnr: float | None = None
    ssim: float | None = None
    lpips: float | None = None
    latent_shape: tuple[int, ...] = ()
    compression: float | None = None  # numbers of the picture / numbers of the latent
    parameters: int | None = None
    encode_ms: float | None = None
    decode_ms: float | None = None
    source: str = ""
    reconstruction: Image.Image | None = None
    error_map: Image.Image | None = None


@dataclass(frozen=True)
class Outcome:
    """What a request came to. `stopped_at`: the step after which a person stopped it, else None."""

    pictures: tuple[Picture, ...] = ()
    rows: tuple[Row, ...] = ()
    seconds: float = 0.0
    stopped_at: int | None = None
    notes: tuple[str, ...] = ()
    reference: Image.Image | None = None  # what the tokenizers of a comparison were given


@dataclass
class Progress:
    """The line between a running request and whoever waits: `report` goes out, `stop` comes in."""

    report: Callable[[int, int, Image.Image | None], None] = lambda done, total, preview: None
    stop: threading.Event = field(default_factory=threading.Event)
    preview: bool = True


@dataclass(frozen=True)
class Facts:
    """What is loaded, in words a person can check."""

    name: str
    device: str
    dtype: str
    attention: str
    sha256: str
    seconds: float


class Stopped(Exception):
    """A request was stopped before it had anything to show."""


class Service:
    """Loads one checkpoint when first needed and answers requests with it."""

    def __init__(self, checkpoint: str | Path, device: str | None = None) -> None:
        self.checkpoint = str(checkpoint)
        self.device = device
        self.facts: Facts | None = None
        self.failure: str | None = None
        self._pipeline: RPiAEPipeline | None = None
        self._tokenizers: dict[str, Any] = {}
        self._loading = threading.Lock()

    @property
    def state(self) -> str:
        """ "waiting", "ready" or "failed"."""
        return "failed" if self.failure else "ready" if self.facts else "waiting"

    @property
    def name(self) -> str:
        """The checkpoint's short name."""
        return Path(self.checkpoint.removeprefix("hf:")).name

    @cached_property
    def defaults(self) -> dict[str, float]:
        """The checkpoint's own sampling settings, read without loading it: the page shows them at once."""
        saved = self._config("model_index.json").get("defaults")
        known = saved if isinstance(saved, dict) else {}
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
            CompareRequest: self._compare,
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
        from rpiae.recipe import describe_pipeline, folder_sha256

        about = describe_pipeline(pipeline)
        if Path(self.checkpoint).is_dir():
            about |= {"checkpoint": self.name, "checkpoint_sha256": folder_sha256(self.checkpoint)}
        return about

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
        from rpiae import images

        if not path:
            raise ValueError(say("error.no_picture"))
        return images.load(path)

    def describe(self, path: str | Path, editing: bool = False) -> str:
        """One line on a file: its size, and what will be done to it. ValueError says why it cannot be used."""
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

    @staticmethod
    def tokenizers() -> list[str]:
        """The tokenizers that can be compared here, RPiAE first."""
        from rpiae.tokenizers import available

        names = available()
        return sorted(names, key=lambda name: name != "rpiae")

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
        return Outcome(pictures=pictures, stopped_at=follower.stopped_at)

    def _reconstruct(self, request: ReconstructRequest, progress: Progress) -> Outcome:
        image = self._pipeline.reconstruct(request.source)
        progress.report(1, 1, None)
        return Outcome(pictures=(Picture(image, None, self._recipe(request, None, image)),))

    def _compare(self, request: CompareRequest, progress: Progress) -> Outcome:
        from rpiae import images

        known = self.tokenizers()
        for name in request.tokenizers:
            if name not in known:
                raise ValueError(say("error.unknown_tokenizer", name=name, names=", ".join(known)))
        square, frame = images.letterbox(request.source, self.side)
        pixels = images.to_tensor(square)
        rows: list[Row] = []
        for index, name in enumerate(request.tokenizers):
            if progress.stop.is_set():
                break
            rows.append(self._row(name, pixels, frame.box))
            progress.report(index + 1, len(request.tokenizers), None)
        if not rows:
            raise Stopped
        stopped_at = len(rows) if len(rows) < len(request.tokenizers) else None
        return Outcome(rows=tuple(rows), reference=square.crop(frame.box), stopped_at=stopped_at)

    def _row(self, name: str, pixels: Any, box: tuple[int, int, int, int]) -> Row:
        """One tokenizer's numbers, from tensors; its faults become its row's reason."""
        try:
            return self._measure(name, pixels, box)
        except Exception as fault:
            if not isinstance(fault, ValueError):
                log.exception("tokenizer %s failed", name)
            return Row(name, error=sentence(fault))

    def _measure(self, name: str, pixels: Any, box: tuple[int, int, int, int]) -> Row:
        import torch

        from rpiae import images, metrics

        tokenizer = self._tokenizer(name)
        with torch.inference_mode():
            tokenizer.encode(pixels)  # the first call sets things up and is not timed
            latent, encode_ms = _timed(lambda: tokenizer.encode(pixels))
            tokenizer.decode(latent)
            decoded, decode_ms = _timed(lambda: tokenizer.decode(latent))
            left, top, right, bottom = box  # the white margin would flatter everybody
            x = pixels[..., top:bottom, left:right]
            y = decoded.float().cpu()[..., top:bottom, left:right].clamp(0, 1)
            lpips, _ = metrics.lpips(x, y)
            return Row(
                name,
                psnr=metrics.psnr(x, y).item(),  # infinite for equal pictures
                ssim=metrics.ssim(x, y).item() if min(x.shape[-2:]) >= 11 else None,  # its window
                lpips=None if lpips is None else lpips.item(),
                latent_shape=tuple(tokenizer.info.latent_shape),
                compression=pixels[0].numel() / math.prod(tokenizer.info.latent_shape),
                parameters=tokenizer.info.parameters,
                encode_ms=encode_ms,
                decode_ms=decode_ms,
                source=str(tokenizer.info.source),
                reconstruction=images.to_pil(y)[0],
                error_map=images.to_pil(metrics.error_map(x, y, gain=1.0))[0],
            )

    def _tokenizer(self, name: str) -> Any:
        """A tokenizer by name. Ours is that of the loaded checkpoint; of the others one at a time is kept."""
        from rpiae.tokenizers import load

        if name not in self._tokenizers:
            self._tokenizers = {
                kept: tokenizer for kept, tokenizer in self._tokenizers.items() if kept == "rpiae"
            }
            self._tokenizers[name] = load(name, self.checkpoint if name == "rpiae" else None)
        return self._tokenizers[name]


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


def check_checkpoint(checkpoint: str) -> None:
    """ValueError when a folder is plainly no checkpoint: the cheap look, before anything is imported."""
    if not checkpoint.startswith("hf:") and not (Path(checkpoint) / "model_index.json").is_file():
        raise ValueError(say("error.checkpoint", folder=checkpoint))


def sentence(fault: BaseException) -> str:
    """What went wrong in words for a person: never a trace, never a folder of this machine."""
    if isinstance(fault, ValueError):
        return _FOLDERS.sub("", str(fault)) or say("error.unexpected")
    if isinstance(fault, MemoryError) or type(fault).__name__ == "OutOfMemoryError":
        return say("error.memory")
    if isinstance(fault, OSError) and fault.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        return say("error.disk", why=fault.strerror)
    return say("error.unexpected")


_FOLDERS = re.compile(r"(?<![\w./])/(?:[\w.@+-]+/)+")


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result of `work` and the milliseconds it took, all of the device's work included."""
    import torch

    start = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, 1000 * (time.perf_counter() - start)
