"""What requests come to: pictures, rows of a comparison, progress on the way, and faults as sentences."""

from __future__ import annotations

import errno
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from PIL import Image

from app.texts import Mistake, say, translated

if TYPE_CHECKING:
    from rpiae.recipe import Recipe


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
    lpips_reason: str = ""  # why there is no LPIPS
    latent_shape: tuple[int, ...] = ()
    compression: float | None = None  # numbers of the picture / numbers of the latent
    parameters: int | None = None
    encode_ms: float | None = None
    decode_ms: float | None = None
    source: str = ""
    licence: str = ""
    image_size: int | None = None
    latent_share: float | None = None  # of the latent's variance, in the picture of it
    sha256: str = ""  # of the reconstruction's pixels
    reconstruction: Image.Image | None = None
    error_map: Image.Image | None = None
    latent_map: Image.Image | None = None


@dataclass(frozen=True)
class Outcome:
    """What a request came to. `stopped_at`: the step after which a person stopped it, else None."""

    pictures: tuple[Picture, ...] = ()
    rows: tuple[Row, ...] = ()
    seconds: float = 0.0
    stopped_at: int | None = None
    notes: tuple[str, ...] = ()
    reference: Image.Image | None = None  # what the tokenizers of a comparison were given
    sheet: Image.Image | None = None  # a comparison on one picture, to keep


@dataclass
class Progress:
    """The line between a running request and whoever waits: `report` goes out, `stop` comes in."""

    report: Callable[[int, int, Image.Image | None], None] = lambda done, total, preview: None
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Facts:
    """What is loaded, in words a person can check. `source`: a hub id or a name, never a folder of this machine."""

    name: str
    kind: str  # "editor", "classes" or "tokenizer"
    source: str
    official: bool  # the authors' files as they are
    device: str
    dtype: str
    attention: str
    sha256: str
    licence: str
    parameters: int
    memory: int  # bytes of the weights
    latent_shape: tuple[int, ...]
    side: int  # of the square in pixels that it works on
    classes: int | None
    seconds: float


class Stopped(Exception):
    """A request was stopped before it had anything to show."""


def sentence(fault: BaseException) -> str:
    """What went wrong in words for a person: never a trace, never a folder of this machine."""
    return told(fault)()


def told(fault: BaseException) -> Callable[[], str]:
    """`sentence`, for later: it is said in the language of whoever reads it then. Nothing of the fault is kept, which
    holds what each function on its way was working on."""
    if isinstance(fault, Mistake):
        said = partial(say, fault.key, **fault.values)
        return lambda: _FOLDERS.sub("", said())
    if isinstance(fault, ValueError) and not isinstance(fault, UnicodeError):  # which nobody wrote for people
        words = _FOLDERS.sub("", str(fault))
        return lambda: translated(words) or say("error.unexpected")
    if no_memory(fault):
        return partial(say, "error.memory")
    if isinstance(fault, OSError) and fault.errno in _FULL:
        return partial(say, "error.disk", why=fault.strerror)
    if isinstance(fault, OSError) and fault.errno in _CLOSED:
        return partial(say, "error.output_closed", why=fault.strerror)
    return partial(say, "error.unexpected")


def no_memory(fault: BaseException) -> bool:
    """Whether there was no room for something: the machine's memory, or a GPU's."""
    # torch has a class of its own for a GPU, none for the machine's memory, and words for both
    found = isinstance(fault, RuntimeError) and _NO_MEMORY.search(str(fault)) is not None
    return found or isinstance(fault, MemoryError) or type(fault).__name__ == "OutOfMemoryError"


_NO_MEMORY = re.compile(r"DefaultCPUAllocator|out of memory|bad_alloc|ALLOC_FAILED")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
_FOLDERS = re.compile(r"(?<![\w./])/(?:[\w.@+-]+/)+")
