"""Image tokenizers behind one protocol, to be compared side by side.

    from rpiae.tokenizers import available, load
    t = load("rpiae")                    # or load("sd-vae", source="random")
    z = t.encode(x); y = t.decode(z)     # x, y: (B, 3, 256, 256) in [0, 1]
    t.info                               # name, latent shape, parameters, source, licence

A source is a local folder or file as the tokenizer's authors published it, "hf:org/name" (fetched from the hub, only
when written so), or "random": the real architecture with random weights, for timing. Without a source the first place
on this machine that has weights is taken; nothing is fetched then.

Besides these there may be the study's own compact ones, named "compact-...": see `rpiae.tokenizers.compact`.
"""

import importlib
import os

from .base import Tokenizer, TokenizerInfo

# Name → module here, or an object in one, with `load(source)` and `find() -> path or None`. Imported when asked for:
# they load torch.
ENTRIES = {
    "rpiae": "rpiae",
    "sd-vae": "sd_vae",
    "va-vae": "va_vae",
    "llamagen-vq": "vqgan",
    "maskgit-vqgan": "maskgit",
    "rae-s": "rae:SMALL",
    "rae-b": "rae:BASE",
    "fae-d32": "fae",
}
NAMES = tuple(ENTRIES)
COMPACT = "compact-"  # how the names of the study's own begin

__all__ = ["NAMES", "Tokenizer", "TokenizerInfo", "available", "load", "published_at"]


def available() -> list[str]:
    """Names of the tokenizers whose weights are on this machine, so that `load(name)` works."""
    from . import compact

    return [name for name in NAMES if _entry(name).find() is not None] + compact.names()


def load(name: str, source: str | os.PathLike | None = None) -> Tokenizer:
    """A tokenizer in float32 on the CPU, ready to use.

    Raises:
        ValueError: an unknown name, no weights on this machine, or weights that are damaged or of another
        model.
    """
    if name.startswith(COMPACT):
        from . import compact

        return compact.load(name, source)
    if name not in ENTRIES:
        raise ValueError(f"There is no tokenizer {name!r}. Use one of: {', '.join(NAMES)}.")
    return _entry(name).load(source)


def published_at(name: str) -> tuple[str, str] | None:
    """The repository on the hub that has a tokenizer's weights, and the file in it; None where none were published."""
    entry = _entry(name) if name in ENTRIES else None
    found = getattr(entry, "PUBLISHED", None)
    return (found.hub_id, found.file) if found and found.hub_id else None


def _entry(name: str):
    module, _, attribute = ENTRIES[name].partition(":")
    found = importlib.import_module(f".{module}", __name__)
    return getattr(found, attribute) if attribute else found
