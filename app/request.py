"""What a person can ask for: frozen, checked on creation, and JSON-able without the picture."""

from __future__ import annotations

import dataclasses
import math
import random
import unicodedata
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from PIL import Image

from app.texts import say

SEED_MAX = 2**31 - 1  # larger whole numbers lose digits on their way through the browser
STEPS = (1, 200)
CLASS_STEPS = (2, 250)  # times of the authors' grid: 2 are one step, 250 is what they take for their numbers
LABEL_MAX = 10**6  # how many classes there are is the checkpoint's business
GUIDANCE = (0.0, 20.0)
PICTURES_MAX = 4
PROMPT_MAX = 2000
FITS = ("pad", "crop")
NO_TEXT = ("Cc", "Cs")  # control characters, and halves of characters, which no file can hold


def new_seed() -> int:
    """A seed nobody has chosen, 0 to 2**31 - 1."""
    return random.SystemRandom().randint(0, SEED_MAX)


def _whole(name: str, value: Any, low: int, high: int) -> int:
    """`value` as an int within [low, high]; ValueError names the setting and the value otherwise."""
    number = finite(name, value, low, high)
    if number != int(number):
        raise ValueError(say("error.whole", name=say(name), value=value))
    return int(number)


def finite(name: str, value: Any, low: float, high: float) -> float:
    """`value` within [low, high]; ValueError names the setting, by the key of its words, and the value otherwise."""
    if value is None:
        raise ValueError(say("error.empty", name=say(name)))
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(say("error.number", name=say(name), value=repr(value)[:40]))
    if not low <= value <= high:
        raise ValueError(say("error.range", name=say(name), value=value, low=low, high=high))
    return float(value)


def _words(value: Any, missing: str | None) -> str:
    """The words alone, without needless blanks; `missing` is the sentence's key when there must be some."""
    value = "" if value is None else value
    if not isinstance(value, str):
        raise ValueError(say("error.text", value=type(value).__name__))
    visible = (sign if sign.isspace() or unicodedata.category(sign) not in NO_TEXT else "" for sign in value)
    text = " ".join("".join(visible).split())
    if not text and missing:
        raise ValueError(say(missing))
    if len(text) > PROMPT_MAX:
        raise ValueError(say("error.long_text", count=len(text), limit=PROMPT_MAX))
    return text


def _picture(value: Any) -> Image.Image:
    if not isinstance(value, Image.Image):
        raise ValueError(say("error.no_picture"))
    return value


def _sides(image: Image.Image) -> str:
    return f"{image.width} × {image.height}"


class _Request:
    """What all requests share: a kind, JSON without pictures, and back."""

    kind: ClassVar[str]

    @property
    def ability(self) -> str:
        """What a checkpoint must be made for, to answer it."""
        return self.kind

    def to_json(self) -> dict[str, Any]:
        """Everything but pictures, as plain JSON values."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in PICTURE_FIELDS}
        return {"kind": self.kind, **plain}


PICTURE_FIELDS = ("source", "mask")


@dataclass(frozen=True)
class GenerateRequest(_Request):
    """Pictures from text or, with `class_label`, of a class. None leaves a setting to the checkpoint."""

    kind: ClassVar[str] = "generate"
    prompt: str
    seed: int = field(default_factory=new_seed)
    negative_prompt: str = ""
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    count: int = 1  # picture i has seed `seed + i`
    class_label: int | None = None  # then `prompt` is only its name, for people
    guidance_interval: tuple[float, float] | None = None  # by class: the times at which guidance is on

    def __post_init__(self) -> None:
        if self.class_label is None:
            _check_sampling(self, "error.no_prompt")
            return
        _check_sampling(self, None, CLASS_STEPS)
        object.__setattr__(self, "class_label", _whole("class_label", self.class_label, 0, LABEL_MAX))
        if self.guidance_interval is not None:
            object.__setattr__(self, "guidance_interval", _interval(self.guidance_interval))

    @property
    def ability(self) -> str:
        return "text" if self.class_label is None else "class"

    @property
    def seeds(self) -> list[int]:
        """One seed a picture; past the largest seed they go on from 0."""
        return [(self.seed + i) % (SEED_MAX + 1) for i in range(self.count)]


@dataclass(frozen=True)
class EditRequest(_Request):
    """One picture changed by an instruction. `source`: RGB, upright, any size; `mask`: white where an edit may be."""

    kind: ClassVar[str] = "edit"
    source: Image.Image
    prompt: str
    seed: int = field(default_factory=new_seed)
    negative_prompt: str = ""
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    image_guidance_scale: float | None = None
    preserve_unchanged: bool = True
    mask: Image.Image | None = None
    count: int = 1
    parent: str = ""  # the job whose picture `parent_picture` is the source: a step before this one
    parent_picture: int = 0

    def __post_init__(self) -> None:
        _picture(self.source)
        _check_sampling(self, "error.no_instruction")
        if self.mask is not None and _picture(self.mask).size != self.source.size:
            raise ValueError(say("error.mask_size", mask=_sides(self.mask), picture=_sides(self.source)))
        if not isinstance(self.parent, str) or len(self.parent) > 36:
            raise ValueError(say("error.not_a_request"))
        object.__setattr__(self, "parent_picture", _whole("count", self.parent_picture, 0, PICTURES_MAX - 1))
        if self.image_guidance_scale is not None:
            scale = finite("image_guidance", self.image_guidance_scale, *GUIDANCE)
            object.__setattr__(self, "image_guidance_scale", scale)
        object.__setattr__(self, "preserve_unchanged", bool(self.preserve_unchanged))

    seeds = GenerateRequest.seeds


@dataclass(frozen=True)
class ReconstructRequest(_Request):
    """One picture through the tokenizer and back."""

    kind: ClassVar[str] = "reconstruct"
    source: Image.Image

    def __post_init__(self) -> None:
        _picture(self.source)


@dataclass(frozen=True)
class CompareRequest(_Request):
    """One picture through several tokenizers, by name. `fit`: how a picture that is no square becomes one for them,
    with white bars ("pad") or cut to its middle ("crop"). With `prompt` the tokenizers' own models edit the picture
    by it or, where `source` is None, draw it; all from one seed."""

    kind: ClassVar[str] = "compare"
    source: Image.Image | None
    tokenizers: tuple[str, ...]
    fit: str = FITS[0]
    prompt: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", _words(self.prompt, None))
        seed = _whole("seed", self.seed, 0, SEED_MAX)
        object.__setattr__(self, "seed", seed if self.prompt else 0)  # it is of what is drawn
        if self.source is not None or not self.prompt:
            _picture(self.source)
        if self.fit not in FITS:
            raise ValueError(say("error.fit", value=repr(self.fit)[:40]))
        names = self.tokenizers
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise ValueError(say("error.tokenizers"))
        if not names:
            raise ValueError(say("error.no_tokenizer"))
        object.__setattr__(self, "tokenizers", tuple(dict.fromkeys(names)))

    def to_json(self) -> dict[str, Any]:
        """As all requests; without a prompt as it was before there were any."""
        plain = super().to_json()
        return plain if self.prompt else {name: plain[name] for name in plain if name not in ("prompt", "seed")}


Request = GenerateRequest | EditRequest | ReconstructRequest | CompareRequest


def _interval(value: Any) -> tuple[float, float]:
    """(from, to) within [0, 1], in order."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(say("error.interval", value=repr(value)[:40]))
    low, high = (finite("guidance_interval", end, 0.0, 1.0) for end in value)
    if low > high:
        raise ValueError(say("error.interval", value=f"{low} to {high}"))
    return low, high


def _check_sampling(
    request: GenerateRequest | EditRequest, missing: str | None, steps: tuple[int, int] = STEPS
) -> None:
    """The checks that generating and editing share; writes the cleaned values back."""
    clean: dict[str, Any] = {
        "prompt": _words(request.prompt, missing),
        "negative_prompt": _words(request.negative_prompt, None),
        "seed": _whole("seed", request.seed, 0, SEED_MAX),
        "count": _whole("count", request.count, 1, PICTURES_MAX),
    }
    if request.num_inference_steps is not None:
        clean["num_inference_steps"] = _whole("steps", request.num_inference_steps, *steps)
    if request.guidance_scale is not None:
        clean["guidance_scale"] = finite("guidance", request.guidance_scale, *GUIDANCE)
    for name, value in clean.items():
        object.__setattr__(request, name, value)


_KINDS = {cls.kind: cls for cls in (GenerateRequest, EditRequest, ReconstructRequest, CompareRequest)}


def from_json(
    plain: dict[str, Any], source: Image.Image | None = None, mask: Image.Image | None = None
) -> Request:
    """A request written by `to_json`, with its pictures handed back. ValueError when it is not one."""
    values = dict(plain)
    cls = _KINDS.get(values.pop("kind", None))
    if cls is None:
        raise ValueError(say("error.not_a_request"))
    names = {f.name for f in dataclasses.fields(cls)}
    if not set(values) <= names:
        raise ValueError(say("error.not_a_request"))
    if "source" in names:
        values["source"] = source
    if "mask" in names:
        values["mask"] = mask
    return cls(**values)
