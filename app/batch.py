"""Several requests in one batch: which belong together, what the pipeline is asked, and whose pictures are whose."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from app.request import EditRequest, GenerateRequest, Request

# What all pictures of a batch share; prompt, source, mask and seed are each picture's own.
SHARED = ("num_inference_steps", "guidance_scale", "image_guidance_scale", "preserve_unchanged")

# By class: no guidance, and the authors' number of times for pictures to look at (for their numbers they take 250).
CLASS_DEFAULTS = {"num_inference_steps": 50, "guidance_scale": 1.0}
WHOLE_INTERVAL = (0.0, 1.0)


@dataclass(frozen=True)
class Drawn:
    """One request's share of what a batch came to. `stopped_at`: the step after which it was stopped, else None;
    `seconds`: of the whole batch, for which whoever asked has waited."""

    images: list[Image.Image]
    masks: list[Image.Image | None]
    stopped_at: int | None
    seconds: float = 0.0


def key(request: Request, defaults: Mapping[str, Any]) -> Hashable | None:
    """Requests of one key may be drawn in one batch; None: this one is answered by itself."""
    if not isinstance(request, (GenerateRequest, EditRequest)):
        return None
    if request.ability == "class":
        return ("class", *class_settings(request).values())
    given = ((name, getattr(request, name, None)) for name in SHARED)
    settings = ((name, defaults.get(name) if value is None else value) for name, value in given)
    return (request.kind, request.negative_prompt, *settings)


def by_words(requests: Sequence[GenerateRequest | EditRequest]) -> dict[str, Any]:
    """The pipeline's arguments for texts or instructions of one key."""
    first = requests[0]
    settings = {name: value for name in SHARED if (value := getattr(first, name, None)) is not None}
    if isinstance(first, EditRequest):
        settings["image"] = [request.source for request in requests for _ in range(request.count)]
        settings["mask_image"] = [request.mask for request in requests for _ in range(request.count)]
    return {
        "prompt": [request.prompt for request in requests for _ in range(request.count)],
        "negative_prompt": first.negative_prompt or None,
        **settings,
    }


def by_class(requests: Sequence[GenerateRequest]) -> dict[str, Any]:
    """The pipeline's arguments for classes of one key."""
    labels = [request.class_label for request in requests for _ in range(request.count)]
    return {"class_labels": labels, **class_settings(requests[0])}


def class_settings(request: GenerateRequest) -> dict[str, Any]:
    """How a class is drawn; all else is as the authors have it, so a recipe need not say it."""
    named = CLASS_DEFAULTS | {"guidance_interval": WHOLE_INTERVAL}
    return {name: value if (said := getattr(request, name)) is None else said for name, value in named.items()}
