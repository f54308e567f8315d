"""One picture through several tokenizers: numbers, reconstructions and errors, and a sheet that shows
them."""

from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .. import images, metrics
from .base import Tokenizer, TokenizerInfo

GAP, LINE, MARGIN = 16, 18, 20
FACTS_LINES = 4
ERROR_GAIN = 4.0


@dataclass(frozen=True)
class Comparison:
    """What one tokenizer made of a picture. Without `info`, `reason` says why there is nothing."""

    name: str
    info: TokenizerInfo | None = None
    reconstruction: Tensor | None = (
        None  # (1, 3, h, w) in [0, 1], the picture alone, without its letterbox's bars
    )
    error: Tensor | None = None  # of the same shape, times ERROR_GAIN
    psnr: float | None = None  # dB
    ssim: float | None = None
    lpips: float | None = None  # None where its weights are not there
    reason: str = ""

    def facts(self) -> list[str]:
        """A few words each, for the table and the sheet."""
        if self.info is None:
            return [self.name, self.reason]
        perceptual = "" if self.lpips is None else f", LPIPS {self.lpips:.3f}"
        return [
            self.name,
            f"{self.psnr:.2f} dB, SSIM {self.ssim:.3f}{perceptual}",
            f"latent {'x'.join(map(str, self.info.latent_shape))}, {self.info.parameters / 1e6:.1f} M",
            self.info.source,
        ]


def compare(tokenizer: Tokenizer, picture: Image.Image) -> Comparison:
    """Encode and decode an RGB picture, letterboxed to the tokenizer's size. The numbers are taken inside its
    box: white bars would flatter every tokenizer."""
    square, frame = images.letterbox(picture, tokenizer.info.image_size)
    left, top, right, bottom = frame.box
    x = images.to_tensor(square)
    y = tokenizer.decode(tokenizer.encode(x)).cpu()[..., top:bottom, left:right]
    x = x[..., top:bottom, left:right]
    distance, _ = metrics.lpips(x, y) if min(x.shape[-2:]) >= 32 else (None, "")
    return Comparison(
        name=tokenizer.info.name,
        info=tokenizer.info,
        reconstruction=y,
        error=metrics.error_map(x, y, ERROR_GAIN),
        psnr=metrics.psnr(x, y).item(),
        ssim=metrics.ssim(x, y).item(),
        lpips=None if distance is None else distance.item(),
    )


def sheet(picture: Image.Image, rows: list[Comparison], size: int = 256) -> Image.Image:
    """The picture and beside it what each tokenizer made of it, above its errors; a column each."""
    square, frame = images.letterbox(picture, size)
    width, height = frame.box[2] - frame.box[0], frame.box[3] - frame.box[1]
    step = max(width, 12 * LINE) + GAP
    canvas = Image.new(
        "RGB",
        (2 * MARGIN - GAP + step * (len(rows) + 1), 2 * MARGIN + 2 * (height + GAP) + FACTS_LINES * LINE),
        "white",
    )
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    canvas.paste(square.crop(frame.box), (MARGIN, MARGIN))
    facts_top = MARGIN + 2 * (height + GAP)
    _write(
        draw,
        font,
        (MARGIN, facts_top),
        ["input", f"{picture.width}x{picture.height}", f"errors x{ERROR_GAIN:g}"],
    )
    for column, row in enumerate(rows, start=1):
        left = MARGIN + column * step
        if row.info is not None:
            for index, shown in enumerate((row.reconstruction, row.error)):
                tile = images.to_pil(shown)[0].resize((width, height), Image.Resampling.BICUBIC)
                canvas.paste(tile, (left, MARGIN + index * (height + GAP)))
        _write(draw, font, (left, facts_top), _wrapped(row.facts(), draw, font, step - GAP))
    return canvas


def _write(draw: ImageDraw.ImageDraw, font, corner: tuple[int, int], lines: list[str]) -> None:
    for index, line in enumerate(lines[:FACTS_LINES]):
        draw.text((corner[0], corner[1] + index * LINE), line, fill="black", font=font)


def _wrapped(lines: list[str], draw: ImageDraw.ImageDraw, font, width: int) -> list[str]:
    """Lines broken between words where they are wider than `width` pixels."""
    broken = []
    for line in lines:
        current = ""
        for word in line.split(" "):
            longer = f"{current} {word}" if current else word
            if current and draw.textlength(longer, font=font) > width:
                broken.append(current)
                longer = word
            current = longer
        broken.append(current)
    return broken
