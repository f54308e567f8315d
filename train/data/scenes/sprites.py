"""Finished stickers, kept: an atlas file in the user's cache folder, then a bounded cache in memory.

Rasterising all 6,198 looks takes about 20 seconds and 195 MB, so `warm_up()` does it once for a machine; the
file is mapped, not read, so its processes share one copy. Without an atlas each sticker is made when needed.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from . import art
from .scene import Sticker
from .vocabulary import SIGN, VOCABULARY

V = VOCABULARY
Key = tuple[str, str, str | None, str]  # noun, style, color, size
# Enough for every look of every noun, so that a long run stops missing: 370 MB when all have been drawn.
KEPT = 8192


def looks() -> Iterator[Key]:
    """Every look of every drawn noun, in the order of the atlas."""
    for noun in V.drawn_nouns:
        for style in V.styles:
            for color in [None, *V.colors] if V.nouns[noun].tintable else [None]:
                for size in V.sizes:
                    yield noun, style, color, size


def side(size: str) -> int:
    return V.sizes[size] + 2 * V.border


@cache
def _places() -> dict[Key, int]:
    """Byte offset of each look in the atlas; the total under the key None."""
    places, offset = {}, 0
    for key in looks():
        places[key] = offset
        offset += side(key[3]) ** 2 * 4
    places[None] = offset
    return places


@cache
def _atlas_name() -> str:
    """Changes with the vocabulary, the rasteriser and the code that draws, so an old atlas is never taken."""
    try:
        rasteriser = version("resvg-py")
    except PackageNotFoundError:
        rasteriser = "none"
    parts = [V.digest, rasteriser, hashlib.sha256(Path(art.__file__).read_bytes()).hexdigest()]
    return f"sprites-{hashlib.sha256('/'.join(parts).encode()).hexdigest()[:16]}.rgba"


def atlas_path() -> Path:
    """Where the atlas of this version lies: $XDG_CACHE_HOME/rpiae or ~/.cache/rpiae."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "rpiae" / _atlas_name()


@cache
def _atlas(path: Path) -> np.ndarray | None:
    """The atlas as one read-only run of bytes, or None when there is none (or only a part of one)."""
    if not path.is_file() or path.stat().st_size != _places()[None]:
        return None
    return np.memmap(path, np.uint8, mode="r")


def warm_up(progress: Callable[[int, int], None] | None = None) -> Path:
    """Make the atlas of every look unless it is there; `progress(done, total)` is called now and then.

    Returns its path. Raises ValueError when drawings are missing or of another version, OSError when the
    cache folder cannot be written. Two processes may do it at once: each writes its own file, the last
    rename wins.
    """
    path = atlas_path()
    if _atlas(path) is not None:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = list(looks())
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            for done, (noun, style, color, size) in enumerate(keys):
                file.write(art.make_sprite(noun, style, color, size).tobytes())
                if progress is not None and done % 100 == 0:
                    progress(done, len(keys))
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    if progress is not None:
        progress(len(keys), len(keys))
    _atlas.cache_clear()
    return path


@lru_cache(KEPT)
def look(noun: str, style: str, color: str | None, size: str, text: str | None = None) -> np.ndarray:
    """A sticker by its look: RGBA uint8 (n, n, 4), straight alpha, read-only."""
    if noun != SIGN and (atlas := _atlas(atlas_path())) is not None:
        n, start = side(size), _places()[noun, style, color, size]
        return atlas[start : start + n * n * 4].reshape(n, n, 4)
    made = art.make_sprite(noun, style, color, size, text)
    made.flags.writeable = False
    return made


def sprite(sticker: Sticker, style: str) -> np.ndarray:
    """The sticker's own picture with its white border: RGBA uint8 (n, n, 4), read-only."""
    return look(sticker.noun, style, sticker.color, sticker.size, sticker.text)


@lru_cache(KEPT)
def window(
    noun: str, style: str, color: str | None, size: str, text: str | None = None
) -> tuple[int, int, np.ndarray, np.ndarray]:
    """A look ready for blending: (top, left) of its inked part in the box, colour x alpha + 128, 255 - alpha.

    The arrays are uint16 and uint8, both (h, w * 3): blending is integer arithmetic on contiguous rows.
    """
    rgba = look(noun, style, color, size, text)
    inked = rgba[..., 3] > 0
    rows, columns = np.flatnonzero(inked.any(1)), np.flatnonzero(inked.any(0))
    top, left = rows[0], columns[0]
    cut = rgba[top : rows[-1] + 1, left : columns[-1] + 1].astype(np.uint16)
    alpha = np.repeat(cut[..., 3], 3, axis=1)
    premultiplied = cut[..., :3].reshape(alpha.shape) * alpha + 128
    return int(top), int(left), premultiplied, (255 - alpha).astype(np.uint8)
