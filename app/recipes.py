"""The recipe of a request's picture: what was asked, with the checkpoint's own settings written out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from PIL import Image

from app import batch
from app.request import PICTURE_FIELDS, EditRequest, GenerateRequest, Request

if TYPE_CHECKING:
    from rpiae.recipe import Recipe

SETTINGS = ("num_inference_steps", "guidance_scale", "image_guidance_scale")


def write(
    request: Request,
    seed: int | None,
    image: Image.Image,
    defaults: Mapping[str, Any],
    class_name: str | None,
    about: Mapping[str, Any],
) -> Recipe:
    """What repeats a picture.

    Args:
        defaults: the checkpoint's own settings, for those that the request leaves to it.
        class_name: of the class that was asked for, where it has a name.
        about: the checkpoint, what it ran on, and `sums`.
    """
    from rpiae.recipe import Recipe

    asked: dict[str, Any] = {}
    if request.ability == "class":
        asked = batch.class_settings(request) | {"class_label": request.class_label, "prompt": class_name, "seed": seed}
    elif isinstance(request, (GenerateRequest, EditRequest)):
        asked = {"prompt": request.prompt, "negative_prompt": request.negative_prompt or None, "seed": seed}
        given = {name: getattr(request, name) for name in SETTINGS if hasattr(request, name)}
        asked |= {name: defaults[name] if value is None else value for name, value in given.items()}
        asked["preserve_unchanged"] = getattr(request, "preserve_unchanged", None)
    return Recipe(kind=request.kind, **asked, width=image.width, height=image.height, **about)


def sums(request: Request) -> dict[str, str | None]:
    """The SHA-256 of the pictures that a request came with."""
    from rpiae.recipe import pixels_sha256

    pictures = {part: getattr(request, part, None) for part in PICTURE_FIELDS}
    return {f"{part}_sha256": None if one is None else pixels_sha256(one) for part, one in pictures.items()}
