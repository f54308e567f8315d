"""What a tokenizer's own diffusion model makes of a prompt, or of a picture and an instruction.

A model is a tokenizer's own when one pipeline folder holds both: a checkpoint of RPiAE, or a compact tokenizer that was
exported with the study's generator. Edits stay as the model leaves them: with the picture's own pixels put back, as
the pipeline does for people, all tokenizers would look alike.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .. import images
from ..loading import read_json, resolve
from ..official import is_official
from ..pipeline import RPiAEPipeline
from ..recipe import pixels_sha256
from . import COMPACT, published, rpiae
from .base import RANDOM, ModelTokenizer

INDEX = "model_index.json"
NO_MODEL = "no model of its own draws here"
# The fields of a drawing in a table's row. draw_seconds holds everything from the words to the pixels.
COLUMNS = ("prompt", "seed", "steps", "guidance_scale", "draw_seconds", "drawn_sha256", "draw_error")


@dataclass(frozen=True)
class Drawing:
    """One result. Without `picture`, `reason` says why there is none.

    The picture is (1, 3, h, w) in [0, 1]; an edited one is without its letterbox's bars.
    """

    prompt: str
    seed: int
    picture: Tensor | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    seconds: float | None = None
    reason: str = ""

    def numbers(self) -> dict[str, Any]:
        """Its part of a table's row, by COLUMNS."""
        return {
            "prompt": self.prompt,
            "seed": self.seed,
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "draw_seconds": self.seconds,
            "drawn_sha256": None if self.picture is None else pixels_sha256(images.to_pil(self.picture)[0]),
            "draw_error": self.reason or None,
        }

    def fact(self) -> str:
        """A few words, for the command line and the sheet."""
        if self.picture is None:
            return self.reason
        return f"own model: {self.steps} steps, guidance {self.guidance_scale:g}, {self.seconds:.2g} s"


def own_model(tokenizer: ModelTokenizer, source: str | os.PathLike | None = None) -> RPiAEPipeline | None:
    """A pipeline of a loaded tokenizer and its own model, on the tokenizer's device and in its dtype; None where it has
    no model.

    Args:
        source: what the tokenizer was loaded from, as `load` takes it.

    Raises:
        ValueError: the model is damaged or of another tokenizer.
    """
    vae, home = tokenizer.model, _folder(tokenizer.info.name, source)
    if home is None:
        return None
    pipe = RPiAEPipeline.from_pretrained(home, torch_dtype=vae.dtype, vae=vae)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(vae.device)


def _folder(name: str, source: str | os.PathLike | None) -> Path | None:
    """The pipeline folder that a tokenizer is from; None where it is from something else."""
    if source == RANDOM or (source is not None and is_official(source)):
        return None
    if name != "rpiae" and not name.startswith(COMPACT):
        return None
    here = rpiae.find() if name == "rpiae" else published.ASSETS / name
    folder = here if source is None else resolve(source)
    if folder is None or not (folder / INDEX).is_file():
        return None
    found = read_json(folder / INDEX, "an RPiAE checkpoint").get("_class_name")
    return folder if found == RPiAEPipeline.__name__ else None


def draw(
    pipe: RPiAEPipeline,
    prompt: str,
    picture: Image.Image | None = None,
    seed: int = 0,
    callback: Callable | None = None,
) -> Drawing:
    """Draw a prompt or, with an RGB picture, edit it, with the pipeline's own settings.

    Args:
        callback: as the pipeline's `callback_on_step_end`.

    Raises:
        ValueError: words that the model cannot read.
    """
    given = {} if picture is None else {"image": picture, "preserve_unchanged": False}
    start = time.perf_counter()
    drawn = pipe(
        prompt, generator=torch.Generator().manual_seed(seed), callback_on_step_end=callback, output_type="pt", **given
    ).images
    drawn = drawn.float().cpu()  # waits for the device
    seconds = time.perf_counter() - start
    if picture is not None:
        left, top, right, bottom = images.letterbox(picture, pipe.vae.config.image_size)[1].box
        drawn = drawn[..., top:bottom, left:right]
    settings = pipe.config.defaults
    return Drawing(prompt, seed, drawn, settings["num_inference_steps"], settings["guidance_scale"], seconds)


def drawn_by(
    tokenizer: ModelTokenizer, source: str | os.PathLike | None, prompt: str, picture: Image.Image | None, seed: int
) -> Drawing:
    """What a tokenizer's own model draws, or why there is nothing: one without a model holds nobody up."""
    try:
        pipe = own_model(tokenizer, source)
        return Drawing(prompt, seed, reason=NO_MODEL) if pipe is None else draw(pipe, prompt, picture, seed)
    except ValueError as error:
        return Drawing(prompt, seed, reason=" ".join(str(error).split()))
