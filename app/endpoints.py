"""What programs call: named endpoints over HTTP and by gradio_client, and the same as MCP tools.

Each takes the studio's own road, a checked request in the queue of `app.jobs`, so that a program gets what a person
gets and waits its turn. One method is one endpoint and one tool of its name: MCP calls a tool by its function's name,
reads what is written under it, and returns a picture only where that is the single output.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Annotated, Any, get_type_hints

import gradio as gr
from gradio.components.api_component import Api
from gradio_client.utils import python_type_to_json_schema

from app import settings, widgets
from app.jobs import Jobs
from app.mask import from_file
from app.outcome import sentence
from app.request import CompareRequest, EditRequest, GenerateRequest, ReconstructRequest, Request
from app.room import POLL
from app.store import Record
from app.texts import say
from app.visitor import visitor

PICTURE = "a picture"
Picture = Annotated[str | None, PICTURE]  # of a parameter: an upload; of the result: a PNG with its recipe inside
MCP = importlib.util.find_spec("mcp") is not None  # the extra of gradio[mcp]; without it there are no tools


class Endpoints:
    """The endpoints. Left out, a setting is the checkpoint's own, and a seed is a new one."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs, self.service = jobs, jobs.service

    def add(self) -> None:
        """Adds every endpoint to the Blocks that are being made."""
        trigger = gr.Button("", visible=False)
        for call in (
            self.edit_image,
            self.text_to_image,
            self.class_to_image,
            self.reconstruct,
            self.compare_tokenizers,
            self.read_recipe,
        ):
            hints = get_type_hints(call, include_extras=True)
            parameters = inspect.signature(call).parameters.values()
            trigger.click(
                call,
                [_field(about.name, hints[about.name], about.default) for about in parameters],
                _field("result", hints["return"]),
                api_name=call.__name__,
                show_progress="hidden",
                concurrency_limit=None,  # a call only waits; how many may wait is up to the jobs
            )

    async def edit_image(
        self,
        image: Picture,
        prompt: str,
        seed: int | None = None,
        negative_prompt: str | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
        preserve_unchanged: bool | None = None,
        mask: Picture = None,
    ) -> Picture:
        """Changes a picture as an instruction says, and returns it at its own size.

        Args:
            image: the picture to change: PNG, JPEG, WebP, AVIF, GIF, BMP or TIFF
            prompt: what should change, for example "make the car blue"
            seed: 0 to 2147483647; the same seed and settings give the same picture
            negative_prompt: what should not be seen
            num_inference_steps: 1 to 200; more take longer
            guidance_scale: 0 to 20; higher follows the words more
            image_guidance_scale: 0 to 20; higher stays closer to the picture
            preserve_unchanged: whether pixels that the edit leaves alone stay the picture's own; usually true
            mask: a picture of the same shape, white where the picture may change; everywhere without it
        """

        def request() -> Request:
            source = self.service.picture(image)
            return EditRequest(
                source=source,
                prompt=prompt,
                image_guidance_scale=image_guidance_scale,
                preserve_unchanged=_choice("preserve", preserve_unchanged, True),
                mask=from_file(mask, source.size) if mask else None,
                **_sampling(seed, negative_prompt, num_inference_steps, guidance_scale),
            )

        return await self._picture(request)

    async def text_to_image(
        self,
        prompt: str,
        seed: int | None = None,
        negative_prompt: str | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
    ) -> Picture:
        """Draws a picture from text.

        Args:
            prompt: what should be in the picture, for example "a cat to the left of a red car"
            seed: 0 to 2147483647; the same seed and settings give the same picture
            negative_prompt: what should not be seen
            num_inference_steps: 1 to 200; more take longer
            guidance_scale: 0 to 20; higher follows the words more
        """
        asked = (seed, negative_prompt, num_inference_steps, guidance_scale)
        return await self._picture(lambda: GenerateRequest(prompt=prompt, **_sampling(*asked)))

    async def class_to_image(
        self,
        class_label: int,
        seed: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
    ) -> Picture:
        """Draws a picture of a class; needs a checkpoint that draws by class.

        Args:
            class_label: the number of the class, from 0
            seed: 0 to 2147483647; the same seed and settings give the same picture
            num_inference_steps: 2 to 250, the points of the authors' grid
            guidance_scale: 0 to 20; 1 is no guidance
        """

        def request() -> Request:
            if class_label is None:
                raise ValueError(say("error.no_class"))
            asked = GenerateRequest(
                prompt="", class_label=class_label, **_sampling(seed, None, num_inference_steps, guidance_scale)
            )
            self.service.check(asked)  # a number that is no class has no name
            return replace(asked, prompt=self.service.class_name(asked.class_label))

        return await self._picture(request)

    async def reconstruct(self, image: Picture) -> Picture:
        """Takes a picture through the loaded checkpoint's tokenizer and back.

        Args:
            image: the picture: PNG, JPEG, WebP, AVIF, GIF, BMP or TIFF
        """
        return await self._picture(lambda: ReconstructRequest(source=self.service.picture(image)))

    async def compare_tokenizers(
        self,
        image: Picture,
        tokenizers: list[str] | None = None,
        fit: str | None = None,
        prompt: str | None = None,
        seed: int | None = None,
    ) -> dict:
        """Measures what image tokenizers keep of a picture: PSNR, SSIM, times, compression, a row for each.

        Args:
            image: the picture: PNG, JPEG, WebP, AVIF, GIF, BMP or TIFF
            tokenizers: their names, for example ["rpiae", "sd-vae"]; all that are on this machine without them
            fit: "pad" adds white bars that do not count, "crop" takes the middle of a picture that is no square
            prompt: an instruction by which each tokenizer's own model, where it has one, edits the picture
            seed: 0 to 2147483647, of those edits
        """

        def request() -> Request:
            names = self.service.tokenizers() if tokenizers is None else tokenizers
            how = {"fit": fit, "prompt": prompt, "seed": seed}
            given = {name: value for name, value in how.items() if value is not None}
            return CompareRequest(self.service.picture(image), names, **given)

        record = await self._finished(request)
        rows = [{name: self._plain(record, value) for name, value in row.items()} for row in record.rows]
        return {"job": record.id, "rows": rows}

    def read_recipe(self, image: Picture) -> dict:
        """Reads the recipe in a PNG that was made here: prompt, seed, settings, checkpoint.

        Args:
            image: a PNG made by RPiAE Studio
        """
        # No coroutine: Gradio runs it in a thread, where a large picture holds up nobody else.
        try:
            self.service.picture(image)  # says it where the file is no picture
            recipe, wrong = settings.recipe_in(image)
        except ValueError as fault:
            raise _told(fault) from fault
        if recipe is None:
            raise gr.Error(wrong or say("restore.none"), print_exception=False)
        return {name: value for name, value in asdict(recipe).items() if value not in (None, "", {})}

    # inside

    async def _picture(self, request: Callable[[], Request]) -> str:
        """The file of the one picture that a request comes to."""
        record = await self._finished(request)
        path = self.jobs.store.file(record.id, record.pictures[0]["file"]) if record.pictures else None
        if path is None:
            raise gr.Error(record.reason or say("job.unknown"), print_exception=False)
        return str(path)

    async def _finished(self, request: Callable[[], Request]) -> Record:
        """Submits a request and waits until it is done; a program that goes away takes its job along."""

        def submit() -> str:
            asked = request()
            self.service.check(asked)
            return self.jobs.submit(asked, address=visitor())

        try:
            job_id = await asyncio.to_thread(submit)
        except ValueError as fault:
            raise _told(fault) from fault
        try:
            while (snapshot := self.jobs.snapshot(job_id)) is not None and not snapshot.finished:
                await asyncio.sleep(POLL)
        except asyncio.CancelledError:
            self.jobs.stop(job_id)
            raise
        if snapshot is None or snapshot.record.state != "done":
            words = snapshot.record.reason if snapshot else say("job.unknown")
            raise gr.Error(words or say("job.stopped_early"), print_exception=False)
        return snapshot.record

    def _plain(self, record: Record, value: Any) -> Any:
        """A cell of a comparison as JSON has it: a file as the address it is served at, no infinite numbers."""
        if isinstance(value, float) and not math.isfinite(value):
            return None
        is_file = isinstance(value, str) and self.jobs.store.file(record.id, value) is not None
        return f"results/{record.id}/{value}" if is_file else value


def _field(name: str, hint: Any, default: Any = None) -> Any:
    """The hidden component behind a parameter or a result. What is no picture arrives as the program wrote it, so that
    `app.request` judges it, as it does for the page; a picture can only be an upload (see `widgets.SafeImage`)."""
    if PICTURE in getattr(hint, "__metadata__", ()):
        return widgets.SafeImage(
            label=name, type="filepath", format="png", image_mode=None, buttons=["download"], visible=False
        )
    value = None if default is inspect.Parameter.empty else default
    return Api(value, python_type_to_json_schema(hint), name)


def _sampling(seed: Any, negative_prompt: Any, steps: Any, guidance: Any) -> dict[str, Any]:
    """The settings that drawing and editing share; a seed that was left out is the request's to choose."""
    shared = {"negative_prompt": negative_prompt, "num_inference_steps": steps, "guidance_scale": guidance}
    return shared | ({} if seed is None else {"seed": seed})


def _choice(name: str, value: Any, default: bool) -> bool:
    if value is not None and not isinstance(value, bool):
        raise ValueError(say("error.choice", name=say(name), value=repr(value)[:40]))
    return default if value is None else value


def _told(fault: ValueError) -> gr.Error:
    return gr.Error(sentence(fault), print_exception=False)
