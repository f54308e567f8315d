"""The studio's work without a page: one loaded checkpoint, requests in, outcomes out, mistakes as sentences.

Requests are answered, and checkpoints changed, by one thread at a time (the worker of `app.jobs`); everything else may
be called from several. `rpiae` is imported inside the functions, see `app.library`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from app import batch, recipes
from app import checkpoint as checkpoints
from app.batch import CLASS_DEFAULTS, Drawn
from app.checkpoint import ABILITIES, CLASSES, EDITOR, Held, Place
from app.comparison import Comparison
from app.follower import Follower
from app.library import import_library
from app.outcome import Facts, Outcome, Picture, Progress, Stopped, no_memory, told
from app.request import CompareRequest, EditRequest, GenerateRequest, ReconstructRequest, Request
from app.texts import say

if TYPE_CHECKING:
    from rpiae.pipeline import RPiAEPipeline
    from rpiae.recipe import Recipe
    from rpiae.tokenizers import Tokenizer

log = logging.getLogger(__name__)

FALLBACK_DEFAULTS = {"num_inference_steps": 30, "guidance_scale": 3.0, "image_guidance_scale": 1.5}
IMAGENET = 1000
GPU_BATCH = 8  # pictures of several requests at once: a GPU draws them in little more time than one
MOST = 0.6  # of a picture: an edit of more is one of the whole picture


class Service:
    """Holds one checkpoint, loaded when first needed, and answers requests with it.

    Args:
        checkpoint: a folder, a file of the authors', or "hf:org/name", which may be fetched.
        device: None takes a GPU where there is one.
        allow_paths: whether people may name other folders and "hf:" ids; False on a public server.
        dtype: "float32", or "auto" for the transformer in bfloat16 where the device is faster with it.
        warm: whether loading runs a step of each kind of work, so that the first person waits less.
        together: how many pictures of waiting requests with equal settings one batch may hold. None: several on a
            GPU; 1 on a CPU, where a batch of four takes three times as long as one picture and the first would wait
            for the last.
        compiled: whether an editor's steps are compiled when there is time for it, see `settle`.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        device: str | None = None,
        allow_paths: bool = True,
        dtype: str = "float32",
        warm: bool = True,
        together: int | None = None,
        compiled: bool = False,
    ) -> None:
        if together is not None and together < 1:
            raise ValueError(f"--together must be at least 1 picture, it is {together}")
        self._together = together
        self._fits: int | None = None  # pictures of several requests, once more of them did not fit the memory
        self.compiled = compiled
        self.checkpoint = str(checkpoint)
        self.device = device
        self.allow_paths = allow_paths
        self.dtype = dtype
        self.warm = warm
        self._why: Callable[[], str] | None = None  # says why it could not be loaded
        self.freed = False
        self.comparison = Comparison(self._tokenizer, lambda: self.side, lambda: self.device or "cpu", self._editor)
        self._held: Held | None = None
        self._first = self.checkpoint  # the command line's: only this one is fetched without another word
        self._loading = threading.RLock()

    # what is loaded

    @property
    def facts(self) -> Facts | None:
        """What is loaded; None while nothing is."""
        held = self._held
        return held.facts if held else None

    @property
    def failure(self) -> str | None:
        """Why the checkpoint could not be loaded, in the language of whoever asks."""
        why = self._why
        return why and why()

    @property
    def state(self) -> str:
        """ "waiting", "ready", "free" or "failed"."""
        if self._why:
            return "failed"
        return "ready" if self._held else "free" if self.freed else "waiting"

    @property
    def name(self) -> str:
        """The checkpoint's short name."""
        return checkpoints.short_name(self.checkpoint)

    @property
    def kind(self) -> str | None:
        """What the checkpoint is, as far as is known before it is loaded."""
        held = self._held
        return held.place.kind if held else checkpoints.known_kind(self.checkpoint)

    @property
    def key(self) -> str:
        """Changes when another checkpoint takes the place, or more is known of it."""
        return f"{self.kind} {self.classes} {self.checkpoint}"

    @property
    def classes(self) -> int | None:
        """How many classes it draws; None when it draws none, or while that is not known."""
        facts = self.facts
        if facts is not None:
            return facts.classes
        return self._config("transformer/config.json").get("num_classes") if self.kind == CLASSES else None

    def can(self, ability: str) -> bool:
        """Whether the checkpoint can "edit", draw from "text" or by "class", "reconstruct" and "compare"; while its
        kind is not known yet, what a checkpoint usually can."""
        return ability in ABILITIES[self.kind or EDITOR]

    def check(self, request: Request) -> None:
        """ValueError when the loaded checkpoint is not made for such a request."""
        if not self.can(request.ability):
            raise ValueError(say(f"error.cannot.{request.ability}", can=say(f"can.{self.kind}")))
        label, classes = getattr(request, "class_label", None), self.classes
        if label is not None and classes is not None and label >= classes:
            raise ValueError(say("error.range", name=say("class_label"), value=label, low=0, high=classes - 1))
        if isinstance(request, CompareRequest):
            import_library()
            self.comparison.check(request)

    @property
    def defaults(self) -> dict[str, float]:
        """The checkpoint's own sampling settings; read from its folder until it is loaded."""
        if self.kind == CLASSES:
            return FALLBACK_DEFAULTS | CLASS_DEFAULTS
        held = self._held
        loaded = held.pipeline.config.defaults if held and held.place.kind == EDITOR else None
        saved = loaded or self._config("model_index.json").get("defaults")
        known = saved if isinstance(saved, Mapping) else {}
        return {name: known.get(name, value) for name, value in FALLBACK_DEFAULTS.items()}

    @property
    def side(self) -> int:
        """The side in pixels of the square that the checkpoint works on."""
        facts = self.facts
        return facts.side if facts else int(self._config("vae/config.json").get("image_size") or 256)

    def class_choices(self) -> list[tuple[str, int]]:
        """Each class in words, with its number: ImageNet's names where there are as many, else numbers."""
        count = self.classes or 0
        if count != IMAGENET:
            return [(say("class.number", number=number), number) for number in range(count)]
        import_library()
        from rpiae.imagenet import class_names

        return [(f"{name} ({number})", number) for number, name in enumerate(class_names())]

    def class_name(self, label: int | None) -> str:
        """What a class is called; its number where it has no name."""
        if label is None or self.classes != IMAGENET or not 0 <= label < IMAGENET:
            return "" if label is None else say("class.number", number=label)
        from rpiae.imagenet import class_names

        return class_names()[label]

    # loading and freeing

    def load(self) -> None:
        """Loads and warms up the checkpoint; does nothing when it is there. ValueError says what is wrong with it."""
        with self._loading:
            if self._held is not None:
                return
            self.freed = False
            try:
                place = checkpoints.find(self.checkpoint, fetch=self.checkpoint == self._first)
            except Exception as fault:
                if not isinstance(fault, ValueError):
                    log.exception("looking for %s failed", self.name)
                self._why = told(fault)
            else:
                self._why = self._read(place)
            if self._why:
                raise ValueError(self._why())

    def settle(self) -> None:
        """What is worth doing after an answer, when nobody waits: compiling the steps, where that was asked for."""
        held = self._held
        if not self.compiled or held is None or held.place.kind != EDITOR:
            return
        try:
            held.pipeline.compile_steps()
            attention = checkpoints.describe(held.place, held.pipeline, held.vae)["attention"]
        except Exception as fault:
            log.warning("%s", fault)
            self.compiled = False  # as it is, it works
            return
        self._held = replace(held, facts=replace(held.facts, attention=attention))

    def free(self) -> None:
        """Gives the memory of the checkpoint back. It stays named: the next request loads it again."""
        with self._loading:
            self._why, self.freed = None, True
            self._drop()

    def switch(self, checkpoint: str) -> None:
        """Frees what is loaded, then loads another. When that cannot be loaded, what was loaded is loaded again.

        Raises:
            ValueError: what is wrong with the new one; the old one is in its place as before.
        """
        with self._loading:
            place = checkpoints.find(checkpoint)  # most mistakes are found before anything is given up
            before = (self.checkpoint, self._why, self.freed)
            was_loaded = self._held is not None
            self._drop()
            self.checkpoint, self._why, self.freed = checkpoint, None, False
            why = self._read(place)
            if why is None:
                return
            self._drop()  # what was read of the new one
            self.checkpoint, self._why, self.freed = before
            if was_loaded:
                with contextlib.suppress(ValueError):  # `failure` says it then
                    self.load()
            raise ValueError(why())

    def _read(self, place: Place) -> Callable[[], str] | None:
        """Loads what is there; None, or what says why it could not be."""
        try:
            self._held = checkpoints.read(place, self.device, self.dtype, self.warm, self._wanted_together)
        except Exception as fault:
            if not isinstance(fault, ValueError):
                log.exception("loading %s failed", place.name)
            return told(fault)
        return None

    def _drop(self) -> None:
        self._held = self._fits = None
        self.comparison.forget()
        checkpoints.give_back()

    def _config(self, name: str) -> dict[str, Any]:
        """A config file of the checkpoint; {} while it is on the hub, or broken: `load` will say so."""
        try:
            config = json.loads((Path(self.checkpoint) / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return config if isinstance(config, dict) else {}

    def _tokenizer(self) -> Tokenizer:
        """The loaded checkpoint's tokenizer; the same weights, not a second copy."""
        self.load()
        return self._held.tokenizer

    def _editor(self) -> RPiAEPipeline | None:
        """The loaded checkpoint, where it draws from text; the same weights, too."""
        self.load()
        return self._held.pipeline if self._held.place.kind == EDITOR else None

    # before a request: what the page asks about pictures and tokenizers

    @staticmethod
    def picture(path: str | Path | None) -> Image.Image:
        """An uploaded file as the models take it: upright, on white, RGB. ValueError says why it cannot be."""
        if not path:
            raise ValueError(say("error.no_picture"))
        if not os.path.isfile(path):  # a page was left open longer than Gradio keeps uploads
            raise ValueError(say("error.upload_gone"))
        import_library()
        from rpiae import images

        return images.load(path)

    @staticmethod
    def is_square(path: str | Path) -> bool:
        """Whether a file's picture has equal sides. ValueError when it is none."""
        import_library()
        from rpiae import images

        width, height = images.describe(path).size
        return width == height

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
        line = say("comma").join(parts) + say("full_stop")
        if editing and about.size != (self.side, self.side):
            line += " " + say("picture.worked_on", side=self.side, width=width, height=height)
        return line

    def tokenizers(self) -> list[str]:
        """The tokenizers that can be compared here, RPiAE first."""
        import_library()
        return self.comparison.names()

    def tokenizers_without_weights(self) -> list[str]:
        """The others, which can be compared with random weights only: "name=random"."""
        import_library()
        return self.comparison.without_weights()

    # answering

    def run(self, request: Request, progress: Progress | None = None) -> Outcome:
        """Answers one request. ValueError for a person's mistake, Stopped when stopped with nothing to show."""
        progress = progress or Progress()
        self.load()
        self.check(request)
        if progress.stop.is_set():
            raise Stopped
        start = time.perf_counter()
        work = {
            GenerateRequest: self._sample,
            EditRequest: self._sample,
            ReconstructRequest: self._reconstruct,
            CompareRequest: self.comparison.run,
        }[type(request)]
        try:
            outcome = work(request, progress)
        except Exception as fault:
            if no_memory(fault):
                self._make_room(fault)
            raise
        return replace(outcome, seconds=time.perf_counter() - start)

    def _make_room(self, fault: Exception) -> None:
        """Gives back what a request had taken that did not fit: the next one is to find the room there was before."""
        traceback.clear_frames(fault.__traceback__)  # a fault holds what each function on its way was working on
        self.comparison.forget()
        checkpoints.give_back()

    # several requests at once

    @property
    def together(self) -> int:
        """How many pictures of several requests one batch may hold; 1: each request is answered by itself."""
        wanted = self._wanted_together(self._held.vae.device.type if self._held else "cpu")
        return wanted if self._fits is None else min(wanted, self._fits)

    def _wanted_together(self, device: str) -> int:
        return self._together or (GPU_BATCH if device.startswith("cuda") else 1)

    def batch_key(self, request: Request) -> Hashable | None:
        """Requests of one key may be answered in one batch; None: this one by itself."""
        return batch.key(request, self.defaults) if self.kind in (EDITOR, CLASSES) else None

    def draw(self, asked: Sequence[tuple[Request, Progress]]) -> list[Drawn]:
        """Draws for requests of one key at once; `finish` makes of each what `run` gives. A fault is that of all."""
        self.load()
        for request, _ in asked:
            self.check(request)
        try:
            return self._draw(asked)
        except Exception as fault:
            if no_memory(fault):
                self._fits = max(1, sum(request.count for request, _ in asked) // 2)
                self._make_room(fault)
            raise

    def finish(self, request: GenerateRequest | EditRequest, drawn: Drawn) -> Outcome:
        """A request's share of a batch as its outcome."""
        partial = drawn.stopped_at is not None
        about = self._about(request)
        pictures = tuple(
            Picture(image, seed, self._recipe(request, seed, image, about), mask, partial)
            for image, mask, seed in zip(drawn.images, drawn.masks, request.seeds, strict=True)
        )
        notes = self._notes(request, pictures)
        return Outcome(pictures=pictures, seconds=drawn.seconds, stopped_at=drawn.stopped_at, notes=notes)

    def _sample(self, request: GenerateRequest | EditRequest, progress: Progress) -> Outcome:
        return self.finish(request, self._draw([(request, progress)])[0])

    def _draw(self, asked: Sequence[tuple[GenerateRequest | EditRequest, Progress]]) -> list[Drawn]:
        import torch

        start = time.perf_counter()
        requests = [request for request, _ in asked]
        by_class = requests[0].ability == "class"
        arguments = batch.by_class(requests) if by_class else batch.by_words(requests)
        steps = arguments.get("num_inference_steps") or self.defaults["num_inference_steps"]
        # The authors' grid of n times makes n - 1 steps.
        lines = [(progress, request.count) for request, progress in asked]
        follower = Follower(steps - 1 if by_class else steps, lines)
        output = self._held.pipeline(
            generator=[torch.Generator().manual_seed(seed) for request in requests for seed in request.seeds],
            callback_on_step_end=follower,
            **arguments,
        )
        masks = getattr(output, "change_masks", None) or [None] * len(output.images)
        seconds = time.perf_counter() - start
        return [
            Drawn(output.images[share.rows], masks[share.rows], share.stopped_at, seconds) for share in follower.shares
        ]

    def _about(self, request: Request) -> dict[str, Any]:
        """What the recipes of all of a request's pictures share: the checkpoint, and what it was given."""
        held = self._held
        return checkpoints.describe(held.place, held.pipeline, held.vae) | recipes.sums(request)

    def _recipe(self, request: Request, seed: int | None, image: Image.Image, about: Mapping[str, Any]) -> Recipe:
        label = getattr(request, "class_label", None)
        name = self.class_name(label) if label is not None and self.classes == IMAGENET else None
        return recipes.write(request, seed, image, self.defaults, name, about)

    def _notes(self, request: Request, pictures: tuple[Picture, ...]) -> tuple[str, ...]:
        """A large picture that was redrawn as a whole has lost detail: that is said, not left to be found."""
        if not isinstance(request, EditRequest) or max(request.source.size) <= self.side:
            return ()
        masks = [picture.change_mask for picture in pictures if picture.change_mask is not None]
        everywhere = not request.preserve_unchanged and request.mask is None
        whole = everywhere or any(_coverage(mask) > MOST for mask in masks)
        return (say("note.detail", side=self.side),) if whole else ()

    def _reconstruct(self, request: ReconstructRequest, progress: Progress) -> Outcome:
        from rpiae import images

        tokenizer = self._held.tokenizer
        square, frame = images.letterbox(request.source, tokenizer.info.image_size)
        decoded = tokenizer.decode(tokenizer.encode(images.to_tensor(square)))
        image = frame.undo(images.to_pil(decoded)[0])
        progress.report(1, 1, None)
        return Outcome(pictures=(Picture(image, None, self._recipe(request, None, image, self._about(request))),))


def _coverage(mask: Image.Image) -> float:
    """The share of a mask that is not 0."""
    return 1 - mask.histogram()[0] / (mask.width * mask.height)
