"""One picture through several tokenizers: numbers, reconstructions, errors and latents, a sheet and tables of them.

The command line and the studio both take their numbers from here, so that both tell the same.
"""

import csv
import io
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .. import images, metrics
from ..recipe import pixels_sha256
from . import drawing
from .base import Tokenizer, TokenizerInfo
from .drawing import Drawing

GAP, LINE, MARGIN = 16, 18, 20
FACTS_LINES = 12  # at most: a reason may be long
ERROR_GAIN = 4.0
TIMES, TIMING_LIMIT = 3, 2.0  # timed runs of encode and decode; fewer when the first took longer than so many seconds
LPIPS_SIDE = 32  # pixels: its backbones shrink a picture to a 16th
NOISE = 1e-9  # of the largest standard deviation
SPREAD = 3.0  # standard deviations of a component, from black to the middle grey and from there to white
# The fields of a table's row, in the order of its columns. psnr is in dB, compression is a factor, latent_share is
# the part of the latent's variance that its picture shows, image_size the side of the square that the tokenizer was
# given: numbers compare within one. sha256 is of the reconstruction's pixels.
OF_INFO = ("latent_shape", "parameters", "image_size", "source", "licence")
COLUMNS = (
    "name", "psnr", "ssim", "lpips", "latent_shape", "compression", "encode_ms", "decode_ms", "parameters",
    "latent_share", "image_size", "source", "licence", "sha256", *drawing.COLUMNS, "error",
)  # fmt: skip
OF_SELF = tuple(name for name in COLUMNS if name not in (*OF_INFO, "sha256", *drawing.COLUMNS, "error"))


@dataclass(frozen=True)
class Comparison:
    """What one tokenizer made of a picture. Without `info`, `reason` says why there is nothing; without a picture to
    take through it there is at most a `drawing`.

    The pictures are (1, 3, h, w) in [0, 1]: the picture alone, without its letterbox's bars.
    """

    name: str
    info: TokenizerInfo | None = None
    reconstruction: Tensor | None = None
    error: Tensor | None = None  # as it is; the sheet shows it ERROR_GAIN times
    latent: Tensor | None = None  # its first three principal components as RGB; None where it is no grid
    latent_share: float | None = None
    psnr: float | None = None
    ssim: float | None = None  # None: `ssim_reason` says why
    lpips: float | None = None  # None: `lpips_reason` says why
    ssim_reason: str = ""
    lpips_reason: str = ""
    encode_ms: float | None = None
    decode_ms: float | None = None
    drawing: Drawing | None = None  # what its own model drew or edited, where that was asked for
    reason: str = ""

    @property
    def compression(self) -> float | None:
        """How many times smaller the latent is: numbers of the picture for each of its numbers; with a codebook, bits
        of the picture, 8 a number, for each bit of its codes."""
        if self.info is None:
            return None
        numbers = 3 * self.info.image_size**2
        if self.info.codes is None:
            return numbers / math.prod(self.info.latent_shape)
        return 8 * numbers / (math.prod(self.info.latent_shape[1:]) * math.log2(self.info.codes))

    def numbers(self) -> dict[str, Any]:
        """The row of a table, by COLUMNS."""
        info = self.info
        if info is None:
            return dict.fromkeys(COLUMNS) | {"name": self.name, "error": self.reason}
        found = dict.fromkeys(COLUMNS) | {name: getattr(self, name) for name in OF_SELF}
        found |= {name: getattr(info, name) for name in OF_INFO}
        if self.reconstruction is not None:
            found["sha256"] = pixels_sha256(images.to_pil(self.reconstruction)[0])
        return found if self.drawing is None else found | self.drawing.numbers()

    def facts(self) -> list[str]:
        """A few words each, for the command line and the sheet."""
        if self.info is None:
            return [self.name, self.reason]
        lines = [self.name]
        if self.reconstruction is not None:
            similar = "" if self.ssim is None else f", SSIM {self.ssim:.3f}"
            perceptual = "" if self.lpips is None else f", LPIPS {self.lpips:.3f}"
            lines.append(f"{self.psnr:.2f} dB{similar}{perceptual}")
        side, shape = self.info.image_size, "x".join(map(str, self.info.latent_shape))
        lines.append(f"latent {shape} of {side}x{side} px, {self.compression:.3g} x smaller")
        if self.reconstruction is not None:
            lines.append(f"encode {self.encode_ms:.3g} ms, decode {self.decode_ms:.3g} ms")
        lines.append(f"{self.info.parameters / 1e6:.1f} M, {self.info.source}")
        return lines if self.drawing is None else [*lines, self.drawing.fact()]


def compare(tokenizer: Tokenizer, picture: Image.Image | None) -> Comparison:
    """Encode and decode an RGB picture, letterboxed to the tokenizer's size. The numbers are taken inside its
    box: white bars would flatter every tokenizer. They are of the tensors, before anything is rounded to 8 bits.
    Without a picture there are the tokenizer's facts alone."""
    if picture is None:
        return Comparison(tokenizer.info.name, tokenizer.info)
    square, frame = images.letterbox(picture, tokenizer.info.image_size)
    left, top, right, bottom = frame.box
    given = images.to_tensor(square)
    latent = tokenizer.encode(given)  # the first run sets things up, so the times are those of later ones
    y = tokenizer.decode(latent).cpu()[..., top:bottom, left:right]
    x = given[..., top:bottom, left:right]
    similarity, ssim_reason = _ssim(x, y)
    distance, lpips_reason = _lpips(x, y)
    view, share = latent_picture(latent, tokenizer.info.image_size, frame.box)
    return Comparison(
        name=tokenizer.info.name,
        info=tokenizer.info,
        reconstruction=y,
        error=metrics.error_map(x, y, gain=1.0),
        latent=view,
        latent_share=share,
        psnr=metrics.psnr(x, y).item(),
        ssim=similarity,
        lpips=distance,
        ssim_reason=ssim_reason,
        lpips_reason=lpips_reason,
        encode_ms=_milliseconds(lambda: tokenizer.encode(given)),
        decode_ms=_milliseconds(lambda: tokenizer.decode(latent)),
    )


def _ssim(x: Tensor, y: Tensor) -> tuple[float | None, str]:
    try:
        return metrics.ssim(x, y).item(), ""
    except ValueError as error:  # a thin picture has its other numbers
        return None, str(error)


def _lpips(x: Tensor, y: Tensor) -> tuple[float | None, str]:
    if min(x.shape[-2:]) < LPIPS_SIDE:
        return None, f"LPIPS needs pictures of at least {LPIPS_SIDE} pixels a side."
    distance, reason = metrics.lpips(x, y)
    return (None, reason or "") if distance is None else (distance.item(), "")


def _milliseconds(work: Callable[[], Tensor]) -> float:
    """The median time of a few runs, all of the device's work included."""
    times: list[float] = []
    while len(times) < TIMES and sum(times) < 1000 * TIMING_LIMIT:
        start = time.perf_counter()
        result = work()
        if result.is_cuda:
            torch.cuda.synchronize(result.device)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def latent_picture(latent: Tensor, side: int, box: tuple[int, int, int, int]) -> tuple[Tensor | None, float | None]:
    """A latent (1, C, h, w) as RGB: the first three principal components of its cells inside `box`, each from three
    standard deviations below the mean (0) to three above (1), enlarged to `side` without smoothing and cut to `box`.
    Also the share of the variance that they hold. (None, None) for a latent that is no grid."""
    if latent.ndim != 4:
        return None, None
    left, top, right, bottom = box
    cells = rearrange(latent[0].detach().cpu().double(), "c h w -> h w c")
    h, w, _ = cells.shape
    # The bars of a letterbox are no part of the picture, and would be most of what differs.
    inside = cells[top * h // side : -(-bottom * h // side), left * w // side : -(-right * w // side)]
    flat = rearrange(inside, "h w c -> (h w) c")
    mean = flat.mean(0)
    _, sizes, directions = torch.linalg.svd(flat - mean, full_matrices=False)
    directions = directions[:3]
    # Their signs are arbitrary: the largest part of each points up, so that a picture looks the same each time.
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    spread = sizes[:3] / math.sqrt(len(flat))
    scores = (cells - mean) @ (directions * largest.sign()).T / spread
    scores[..., spread <= NOISE * spread[0]] = 0  # rounding, no component: grey
    shown = torch.full((1, 3, h, w), 0.5)
    shown[0, : len(directions)] = rearrange((0.5 + scores / (2 * SPREAD)).clamp(0, 1).float(), "h w c -> c h w")
    large = torch.nn.functional.interpolate(shown, (side, side), mode="nearest-exact")
    total = sizes.square().sum().item()
    share = sizes[:3].square().sum().item() / total if total else 1.0
    return large[..., top:bottom, left:right], share


# tables


def as_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows of `numbers` with their unrounded values; an empty cell is one that is not known, "inf" is infinite."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for row in rows:
        table.writerow([_cell(row.get(name)) for name in COLUMNS])
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return "x".join(map(str, value))
    return "" if value is None else value


def as_json(rows: Iterable[Mapping[str, Any]], **about: Any) -> str:
    """The same as JSON, after what there is to say `about` them all. JSON has no infinity: there it is "inf"."""
    table = [{name: _finite(row.get(name)) for name in COLUMNS} for row in rows]
    return json.dumps({**about, "tokenizers": table}, ensure_ascii=False, indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


# the sheet


def sheet(picture: Image.Image | None, rows: list[Comparison], size: int = 256) -> Image.Image:
    """The picture and beside it what each tokenizer made of it, above its errors, its latent and what its own model
    drew or edited; a column each. Tokenizers of other sizes are shown at this one, and say theirs."""
    drawings = [row.drawing for row in rows if row.drawing is not None]
    square, frame = (None, None) if picture is None else images.letterbox(picture, size)
    width, height = (size, size) if frame is None else (frame.box[2] - frame.box[0], frame.box[3] - frame.box[1])
    bands = (0 if picture is None else 3) + bool(drawings)
    step = max(width, 12 * LINE) + GAP
    facts_top = MARGIN + bands * (height + GAP)
    font = ImageFont.load_default(13)
    facts = [_wrapped(lines, font, step - GAP) for lines in (_about(picture, drawings), *(row.facts() for row in rows))]
    bottom = facts_top + LINE * max(map(len, facts)) + MARGIN
    canvas = Image.new("RGB", (2 * MARGIN - GAP + step * len(facts), bottom), "white")
    if square is not None:
        canvas.paste(square.crop(frame.box), (MARGIN, MARGIN))
    for column, row in enumerate(rows, start=1):
        for index, (shown, resampling) in enumerate(_tiles(row, picture is not None)):
            if shown is not None:
                tile = images.to_pil(shown)[0].resize((width, height), Image.Resampling[resampling])
                canvas.paste(tile, (MARGIN + column * step, MARGIN + index * (height + GAP)))
    draw = ImageDraw.Draw(canvas)
    for column, lines in enumerate(facts):
        for index, line in enumerate(lines):
            draw.text((MARGIN + column * step, facts_top + index * LINE), line, fill="black", font=font)
    return canvas


def _about(picture: Image.Image | None, drawings: list[Drawing]) -> list[str]:
    """What stands below the input."""
    lines = []
    if picture is not None:
        lines += ["input", f"{picture.width}x{picture.height}", f"middle: errors x{ERROR_GAIN:g}"]
        lines += ["below: the latent's first three components"]
    if drawings:
        what = "prompt" if picture is None else "last: its own model's edit"
        lines += [f"{what}: {drawings[0].prompt}", f"seed {drawings[0].seed}"]
    return lines


def _tiles(row: Comparison, compared: bool) -> list[tuple[Tensor | None, str]]:
    """A column's pictures from above, each with how it is enlarged."""
    errors = None if row.error is None else ERROR_GAIN * row.error
    tiles = [(row.reconstruction, "BICUBIC"), (errors, "BICUBIC"), (row.latent, "NEAREST")] if compared else []
    return tiles + ([] if row.drawing is None else [(row.drawing.picture, "BICUBIC")])


def _wrapped(lines: list[str], font, width: int) -> list[str]:
    """Lines broken between words where they are wider than `width` pixels; the first FACTS_LINES of them."""
    broken = []
    for line in lines:
        current = ""
        for word in line.split(" "):
            longer = f"{current} {word}" if current else word
            if current and font.getlength(longer) > width:
                broken.append(current)
                longer = word
            current = longer
        broken.append(current)
    return broken[:FACTS_LINES]
