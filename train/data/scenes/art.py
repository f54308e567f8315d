"""From noun, style, colour and size to a sticker: SVG text, recoloured, rasterised, given a white border.

Rasterising costs milliseconds, so nothing here is meant for a training loop; `sprites.py` keeps the results.
"""

import hashlib
import importlib.util
import io
import re
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt

from .vocabulary import SIGN, VOCABULARY

V = VOCABULARY
LITERAL = re.compile(r"#([0-9a-fA-F]{6}|[0-9a-fA-F]{3})(?![0-9a-fA-F])")
VIEWBOX = re.compile(r'viewBox="[^"]*"')
BORDER_REACH = 3.5  # pixels from the drawing at which the white border has faded out
SOLID = 128  # alpha from which a pixel counts as drawn


def _install(package: str) -> str:
    return f"install it with: pip install {V.raw['packages'][package]['pip']}"


@cache
def _folder(style: str) -> Path:
    """Where the installed package of a style keeps its SVG files."""
    module, _, inner = V.raw["packages"][style]["folder"].partition("/")
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"the {style} drawings are missing (Python package {module}); {_install(style)}")
    return Path(spec.submodule_search_locations[0]) / inner


@cache
def svg(noun: str, style: str) -> str:
    """The SVG text of a noun. Raises ValueError when it is not installed or is another version's drawing."""
    drawing = V.nouns[noun].drawings[style]
    path = _folder(style) / drawing.file
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(
            f"the {style} drawing of {noun!r} is missing ({drawing.file}); {_install(style)}"
        ) from None
    found = hashlib.sha256(data).hexdigest()[:16]
    if found != drawing.sha256:
        raise ValueError(
            f"the {style} drawing of {noun!r} ({drawing.file}) has SHA-256 {found}, expected "
            f"{drawing.sha256}: another version is installed; {_install(style)}"
        )
    return data.decode("utf-8")


def shade(channel: int, amount: float) -> int:
    """One channel of a colour, darkened (amount <= 0) or lightened."""
    return round(channel * (1 + amount) if amount <= 0 else channel + (255 - channel) * amount)


def recoloured(text: str, tint: dict[str, float], rgb: tuple[int, int, int]) -> str:
    """SVG text with every colour literal that is a key of `tint` replaced by its shade of `rgb`."""

    def new(match: re.Match) -> str:
        digits = match[1].lower()
        literal = "#" + (digits if len(digits) == 6 else "".join(2 * digit for digit in digits))
        if literal not in tint:
            return match[0]
        return "#" + "".join(f"{shade(channel, tint[literal]):02x}" for channel in rgb)

    return LITERAL.sub(new, text)


def _drawn(noun: str, style: str, color: str | None, size: int) -> np.ndarray:
    """The drawing alone: RGBA uint8 (size, size, 4), straight alpha."""
    try:
        import resvg_py
    except ImportError:
        raise ValueError(f"the rasteriser resvg_py is missing; {_install('raster')}") from None
    drawing = V.nouns[noun].drawings[style]
    text = svg(noun, style)
    if color is not None:
        text = recoloured(text, drawing.tint, V.colors[color])
    box = " ".join(str(value) for value in drawing.viewbox)
    text = VIEWBOX.sub(f'viewBox="{box}"', text, count=1)
    png = resvg_py.svg_to_bytes(svg_string=text, width=size, height=size)
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))


def _sign(style: str, color: str | None, size_name: str, word: str) -> np.ndarray:
    """A board with a word: RGBA uint8 (S, S, 4)."""
    sign, size = V.raw["sign"], V.sizes[size_name]
    k, look = sign["glyph_scale"][size_name], sign[style]
    fill = look["fill"] if color is None else V.colors[color]
    ink = (
        look["text"] if color is None else (0, 0, 0) if color in sign["dark_text_colors"] else (255, 255, 255)
    )
    height = 7 * k + 2 * (2 * k + 2)
    top = (size - height) // 2
    art = np.zeros((size, size, 4), np.uint8)
    board = art[top : top + height]
    board[..., 3] = 255
    if look["edge"] is not None:
        board[..., :3] = look["edge"]
        board[2:-2, 2:-2, :3] = fill
    else:
        board[..., :3] = fill
    x, y = (size - (6 * len(word) - 1) * k) // 2, top + 2 * k + 2
    for letter in word:
        dots = np.array([[digit == "1" for digit in row] for row in V.raw["font5x7"][letter]])
        art[y : y + 7 * k, x : x + 5 * k, :3][dots.repeat(k, 0).repeat(k, 1)] = ink
        x += 6 * k
    return art


def bordered(art: np.ndarray) -> np.ndarray:
    """Art (S, S, 4) with the white sticker border: RGBA uint8 (S + 6, S + 6, 4)."""
    art = np.pad(art, [(V.border, V.border), (V.border, V.border), (0, 0)])
    alpha = art[..., 3:].astype(np.float64) / 255
    distance = distance_transform_edt(art[..., 3] < SOLID)[..., None]
    edge = np.clip(BORDER_REACH - distance, 0, 1)
    cover = alpha + (1 - alpha) * edge
    color = (art[..., :3] * alpha + 255 * (1 - alpha) * edge) / np.where(cover > 0, cover, 1)
    return np.rint(np.concatenate([color, 255 * cover], axis=-1)).astype(np.uint8)


def make_sprite(noun: str, style: str, color: str | None, size: str, text: str | None = None) -> np.ndarray:
    """A sticker with its border from scratch: RGBA uint8 (n, n, 4) with n = size + 6."""
    art = _sign(style, color, size, text) if noun == SIGN else _drawn(noun, style, color, V.sizes[size])
    return bordered(art)
