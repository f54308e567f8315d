"""What fills a form again: a job's record, the recipe inside a PNG, or a link. Every value is checked once more.

settings = from_recipe(read("old.png"), service)
settings.kind, settings.values, settings.notes      # "edit", {"prompt": ..., "seed": ...}, what could not be had
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from PIL import Image

from app.batch import WHOLE_INTERVAL
from app.jobs import Jobs
from app.library import import_library
from app.outcome import sentence
from app.request import EditRequest, GenerateRequest
from app.service import Service
from app.store import Record
from app.texts import say

if TYPE_CHECKING:
    from rpiae.recipe import Recipe

SHARED = ("prompt", "negative_prompt", "seed", "num_inference_steps", "guidance_scale", "count")
FIELDS = {
    "generate": (*SHARED, "class_label", "guidance_interval"),
    "edit": (*SHARED, "image_guidance_scale", "preserve_unchanged"),
}
# The names of a link's parts; `tab` says which form it fills.
LINK = {
    "prompt": "prompt",
    "seed": "seed",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "image_guidance": "image_guidance_scale",
    "avoid": "negative_prompt",
    "count": "count",
    "keep": "preserve_unchanged",
    "class": "class_label",
    "interval": "guidance_interval",  # of a class: two numbers with a comma between them
}


@dataclass(frozen=True)
class Settings:
    """`values`: by the names of a request's fields, only what is known; `notes`: sentences on what is not."""

    kind: str
    values: dict[str, Any]
    notes: tuple[str, ...] = ()


def recipe_in(path: str | None) -> tuple[Recipe | None, str]:
    """The recipe inside an uploaded file, if it has one; a broken one is a sentence, a file that is no picture
    nothing: that is said where pictures are described."""
    if not path:
        return None, ""
    import_library()
    from rpiae import images, recipe

    try:
        images.open_header(path)
    except ValueError:
        return None, ""
    try:
        return recipe.read(path), ""
    except ValueError as fault:
        return None, sentence(fault)


def from_record(record: Record, defaults: Mapping[str, float]) -> Settings | None:
    """What a job was asked, the checkpoint's own settings written out; None for a kind without such a form."""
    kind = record.request.get("kind", "")
    if kind not in FIELDS:
        return None
    asked = {name: value for name, value in record.request.items() if value is not None}
    return _checked(kind, {**defaults, **asked})


def from_recipe(recipe: Recipe, service: Service) -> Settings | None:
    """The settings in a picture, and what else repeating it would take; None for a picture that no form makes."""
    if recipe.kind not in FIELDS:
        return None
    given = {name: getattr(recipe, name, None) for name in FIELDS[recipe.kind]}
    given |= {"count": 1, "negative_prompt": recipe.negative_prompt or ""}
    found = _checked(recipe.kind, given)
    return Settings(found.kind, found.values, (*found.notes, *_differences(recipe, service)))


def from_query(query: Mapping[str, str], kind: str) -> Settings | None:
    """What a link asks for; None unless it is for this form."""
    if query.get("tab") != kind or kind not in FIELDS:
        return None
    given = {field: _read(field, query[name]) for name, field in LINK.items() if name in query}
    return _checked(kind, {name: value for name, value in given.items() if name in FIELDS[kind]})


def to_query(record: Record, index: int = 0) -> str:
    """A link's query for picture `index` of a job: the settings that made it, with its own seed."""
    kind = record.request.get("kind", "")
    if kind not in FIELDS:
        return ""
    picture = record.pictures[index]
    # The recipe has the checkpoint's own settings written out, where the request left them open.
    made = {**record.request, **{k: v for k, v in (picture.get("recipe") or {}).items() if v is not None}}
    made |= {"seed": picture["seed"], "count": 1}
    parts = {"tab": kind}
    usual = {"count": 1, "preserve_unchanged": True, "guidance_interval": WHOLE_INTERVAL}
    for name, field in LINK.items():
        value = made.get(field)
        value = tuple(value) if isinstance(value, list) else value  # as JSON has it
        if field in FIELDS[kind] and value not in (None, "", usual.get(field)):
            parts[name] = _written(value)
    return "?" + urlencode(parts)


def _written(value: Any) -> str:
    """A value in a link; `_read` is the way back."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(int(value) if isinstance(value, bool) else value)


def source_record(
    jobs: Jobs, owner: str, source_sha256: str | None, mask_sha256: str | None = None
) -> Record | None:
    """The owner's job that began with just this picture, if it is still in their history; of several the newest that
    might change just this area, if there is one."""
    if not source_sha256:
        return None
    try:
        history = jobs.history(owner)
    except ValueError:  # the output folder cannot be read: History says so
        return None
    found = [record for record in history if record.source and _sum(record, "source") == source_sha256]
    return next((record for record in found if has_mask(record, mask_sha256)), found[0] if found else None)


def has_mask(record: Record, sha256: str | None) -> bool:
    """Whether a job might change just this area; None: all of the picture."""
    return _sum(record, "mask") == sha256


def _sum(record: Record, part: str) -> str | None:
    """The SHA-256 of a picture that a job was given, which the recipes of its results have."""
    recipes = (picture.get("recipe") or {} for picture in record.pictures)
    return next((recipe.get(f"{part}_sha256") for recipe in recipes), None)


def _checked(kind: str, given: Mapping[str, Any]) -> Settings:
    """The values that a request would take, cleaned by it; each of the others becomes a sentence."""
    values, notes = {}, []
    # A class has limits of its own, and its prompt may be empty.
    label = given.get("class_label") if kind == "generate" else None
    base = {"prompt": "x"} | ({"class_label": label} if label is not None else {})
    base |= {"source": Image.new("RGB", (16, 16))} if kind == "edit" else {}
    cls = EditRequest if kind == "edit" else GenerateRequest
    for name in FIELDS[kind]:
        if given.get(name) is None or (name == "guidance_interval" and label is None):
            continue
        try:
            values[name] = getattr(cls(**{**base, name: given[name]}), name)
        except (ValueError, TypeError) as fault:
            notes.append(sentence(fault) if isinstance(fault, ValueError) else say("error.not_a_request"))
    return Settings(kind, values, tuple(dict.fromkeys(notes)))


def _read(field: str, text: str) -> Any:
    """A link's words as a value of the field's type; what is no number stays words, and is refused as such."""
    if field in ("prompt", "negative_prompt"):
        return text
    if field == "preserve_unchanged":
        return text != "0"
    if field == "guidance_interval":
        return tuple(_number(part) for part in text.split(",", 2))
    return _number(text)


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _differences(recipe: Recipe, service: Service) -> list[str]:
    """What would make the picture come out another way here."""
    notes = []
    facts = service.facts
    if facts and recipe.checkpoint_sha256 and recipe.checkpoint_sha256 != facts.sha256:
        words = {"name": recipe.checkpoint or "?", "sha": recipe.checkpoint_sha256[:12]}
        notes.append(say("restore.checkpoint", **words, loaded=facts.name, here=facts.sha256[:12]))
    elif facts is None and recipe.checkpoint and recipe.checkpoint != service.name:
        notes.append(say("restore.checkpoint.name", name=recipe.checkpoint, loaded=service.name))
    device = recipe.device.split(":")[0].replace("cpu", "CPU").replace("cuda", "GPU")
    if facts and device and not (facts.device.startswith(device) and facts.dtype == recipe.dtype):
        there, here = f"{device}, {recipe.dtype}", f"{facts.device}, {facts.dtype}"
        notes.append(say("restore.device", there=there, here=here))
    if recipe.source_sha256:
        notes.append(say("restore.source", sha=recipe.source_sha256[:12]))
    interval = tuple(recipe.guidance_interval or WHOLE_INTERVAL)
    if recipe.class_label is None and interval != WHOLE_INTERVAL:  # the command line's, not this form's
        notes.append(say("restore.interval", low=interval[0], high=interval[1]))
    if recipe.mask_sha256:
        notes.append(say("restore.mask"))
    return notes
