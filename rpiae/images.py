"""Pictures in and out: the only file that reads them, and knows EXIF and colour modes.

`load` turns whatever a person has into an upright 8-bit RGB picture, `letterbox` fits it into the model's
square without cropping or stretching, `to_tensor` and `to_pil` cross to and from the inside of this library,
where a picture is a float tensor (B, C, H, W) in [0, 1].
"""

import io
import os
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageOps, UnidentifiedImageError

MIN_SIDE = 16
MAX_PIXELS = 40_000_000
MAX_BYTES = 512 * 1024**2  # of a file: 40 megapixels of 16 bits and four channels are 320 MB
# Named one by one, because some of Pillow's readers start other programs (EPS) or are hardly ever exercised.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
READABLE = "PNG, JPEG, WebP, AVIF, GIF, BMP or TIFF"

Source = str | os.PathLike | bytes | Image.Image | np.ndarray


@dataclass(frozen=True)
class Description:
    """What a picture is, as its header tells: enough to say in one line what `load` will do to it."""

    size: tuple[int, int]  # (width, height) in pixels, upright
    mode: str  # Pillow's mode: "RGB", "RGBA", "P", "CMYK", "I;16", ...
    turned: bool  # EXIF asks for a turn or a flip
    had_alpha: bool  # transparent parts become white
    animated: bool = False  # `load` takes the first frame


@dataclass(frozen=True)
class Letterbox:
    """Where a picture of `original_size` lies inside the model's square of `size` pixels a side."""

    original_size: tuple[int, int]  # (width, height)
    box: tuple[int, int, int, int]  # (left, top, right, bottom), right and bottom exclusive
    size: int

    @property
    def is_exact(self) -> bool:
        """True where the picture is the square itself, pixel for pixel."""
        return self.original_size == (self.size, self.size)

    def undo(self, square: Image.Image) -> Image.Image:
        """The picture of the original size."""
        if square.size != (self.size, self.size):
            raise ValueError(
                f"This letterbox is of {self.size}x{self.size} pixels, the picture has {square.width}x"
                f"{square.height}. Give the square that the model made for it."
            )
        picture = square.crop(self.box)
        return picture if self.is_exact else picture.resize(self.original_size, Image.Resampling.BICUBIC)


def load(source: Source) -> Image.Image:
    """The first frame of a picture, upright (EXIF), transparent parts on white, 8-bit RGB.

    `source` is a path, the bytes of a file, a PIL image in any mode, or a uint8 array (H, W), (H, W, 1),
    (H, W, 3) or (H, W, 4). The colour profile of an RGB picture stays attached, since its numbers stay the
    same. Raises ValueError, in one sentence, for what is no picture, is broken, has a side under 16 pixels or
    more than 40 megapixels; sizes are read from the header, before anything is decoded.
    """
    picture, name = _open(source)
    try:
        with _quiet():
            rgb = _flatten(_turn(picture))
    except Exception as error:  # decoders raise anything from OSError to struct.error on a broken file
        raise ValueError(
            f"{name} is damaged or cut off and cannot be read ({_reason(error)}). "
            "Save it again and try once more."
        ) from error
    profile = picture.info.get("icc_profile")
    # Bytes 16-20 of a profile name the colours it is for; one for CMYK or grey no longer fits what we return.
    fits = picture.mode in ("RGB", "RGBA", "P") and isinstance(profile, bytes) and profile[16:20] == b"RGB "
    rgb.info = {"icc_profile": profile} if fits else {}
    return rgb


def open_header(source: Source) -> Image.Image:
    """The picture opened but not decoded, for what its header and text hold. Raises ValueErrors as `load`
    does."""
    return _open(source, least_side=1)[0]


def describe(source: Source) -> Description:
    """What the header tells of a picture, without decoding it. Raises the same ValueErrors as `load`."""
    picture, _ = _open(source)
    orientation = _orientation(picture)
    size = picture.size[::-1] if orientation >= 5 else picture.size
    return Description(
        size=size,
        mode=picture.mode,
        turned=orientation != 1,
        had_alpha=picture.has_transparency_data,
        animated=_is_animated(picture),
    )


def load_mask(source: Source, size: tuple[int, int]) -> Image.Image:
    """A painted mask as "L" of `size`, 255 where the picture may change and 0 elsewhere.

    White (128 and above) is painted. Where the mask has transparent parts, paint of any colour counts
    instead, as paint programs and the app's brush layer give it. Raises ValueError for another size than the
    picture's or for a mask on which nothing is painted.
    """
    picture, _ = _open(source, least_side=1)
    try:
        with _quiet():
            upright = _turn(picture)
        alpha = upright.convert("RGBA").getchannel("A") if upright.has_transparency_data else None
        if alpha is not None and alpha.getextrema()[0] < 255:
            painted = np.asarray(alpha) > 0
        else:
            painted = np.asarray(_flatten(upright).convert("L")) >= 128
    except Exception as error:
        raise ValueError(f"The mask is damaged or cut off and cannot be read ({_reason(error)}).") from error
    if upright.size != tuple(size):
        raise ValueError(
            f"The mask has {upright.width}x{upright.height} pixels, the picture {size[0]}x{size[1]}. "
            "Paint the mask on the picture itself, at its own size."
        )
    if not painted.any():
        raise ValueError(
            "Nothing is painted white on the mask, so nothing may change. "
            "Paint the part that may change, or leave the mask away."
        )
    return Image.fromarray(painted.astype(np.uint8) * 255)


def letterbox(image: Image.Image, size: int = 256) -> tuple[Image.Image, Letterbox]:
    """Fit an RGB picture into a white square ("L" into a black one): whole, centred, in its own proportions.

    A picture that has the square's size passes unchanged, bit for bit.
    """
    width, height = image.size
    scale = size / max(width, height)
    box_width, box_height = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (size - box_width) // 2, (size - box_height) // 2
    frame = Letterbox((width, height), (left, top, left + box_width, top + box_height), size)
    if frame.is_exact:
        return image.copy(), frame
    square = Image.new(image.mode, (size, size), "white" if image.mode == "RGB" else 0)
    square.paste(image.resize((box_width, box_height), Image.Resampling.BICUBIC), (left, top))
    return square, frame


def to_tensor(images: Image.Image | list[Image.Image]) -> torch.Tensor:
    """RGB pictures of one size as float32 (B, 3, H, W) in [0, 1]; "L" pictures as (B, 1, H, W)."""
    images = [images] if isinstance(images, Image.Image) else list(images)
    kinds = {(image.mode, image.size) for image in images}
    if len(kinds) != 1 or images[0].mode not in ("RGB", "L"):
        raise ValueError(
            f"Pictures of one batch must all be RGB and of one size, not {sorted(kinds)}. "
            "Bring them through load() and letterbox()."
        )
    arrays = [np.atleast_3d(np.asarray(image)) for image in images]
    return rearrange(torch.from_numpy(np.stack(arrays)), "b h w c -> b c h w").float() / 255


def to_pil(pictures: torch.Tensor) -> list[Image.Image]:
    """Float pictures (B, C, H, W) or (C, H, W), C 3 or 1, as PIL; clamped to [0, 1] and rounded."""
    if pictures.ndim == 3:
        pictures = pictures[None]
    if pictures.ndim != 4 or pictures.shape[1] not in (1, 3):
        raise ValueError(
            f"Pictures must have the shape (B, 3, H, W) or (B, 1, H, W), not {tuple(pictures.shape)}."
        )
    pictures = pictures.detach().float()
    check_finite(pictures)
    pixels = (pictures.clamp(0, 1) * 255).round().to(device="cpu", dtype=torch.uint8)
    arrays = rearrange(pixels, "b c h w -> b h w c").contiguous().numpy()
    return [Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array) for array in arrays]


def check_finite(pictures: torch.Tensor) -> None:
    """ValueError for pictures with values that are no numbers."""
    if not torch.isfinite(pictures).all():
        raise ValueError(
            "The picture has values that are no numbers (overflow in a half-precision model?). "
            "Try float32 or bfloat16."
        )


def _open(source: Source, least_side: int = MIN_SIDE) -> tuple[Image.Image, str]:
    """An opened but not yet decoded picture and what to call it in a message; sizes are checked here."""
    name = "The picture"
    if isinstance(source, np.ndarray):
        picture = _from_array(source)
    elif isinstance(source, Image.Image):
        picture = source
    elif isinstance(source, (bytes, bytearray, memoryview, str, os.PathLike)):
        is_path = isinstance(source, (str, os.PathLike))
        name = f"'{Path(source).name}'" if is_path else name
        picture = _read_header(_read_file(Path(source), name) if is_path else bytes(source), name)
    else:
        raise ValueError(
            f"A picture is a path, bytes, a PIL image or a uint8 array, not {type(source).__name__}."
        )
    _check_size(*picture.size, name, least_side)
    return picture, name


def _read_file(path: Path, name: str) -> bytes:
    if not path.exists():
        raise ValueError(f"There is no file {name}. Check the path.")
    if path.is_dir():
        raise ValueError(f"{name} is a folder, not a picture.")
    if not path.is_file():
        raise ValueError(f"{name} is no file of its own kind that could hold a picture.")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{name} has {size / 1024**2:.0f} MB, more than the {MAX_BYTES // 1024**2} MB of any picture.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{name} cannot be opened ({error.strerror}).") from error


def _read_header(data: bytes, name: str) -> Image.Image:
    if not data:
        raise ValueError(f"{name} is empty (0 bytes).")
    Image.init()
    try:
        with _quiet():
            # A Pillow built without some reader would otherwise fail on its mere name.
            return Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN])
    except Image.DecompressionBombError as error:
        raise ValueError(_too_big(name)) from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is not a picture that can be read. Use {READABLE}.") from error
    except Exception as error:  # a header that is broken rather than foreign
        raise ValueError(f"{name} is damaged and cannot be read ({_reason(error)}).") from error


def _check_size(width: int, height: int, name: str, least_side: int) -> None:
    if min(width, height) < least_side:
        raise ValueError(f"{name} has {width}x{height} pixels, but each side needs at least {least_side}.")
    if width * height > MAX_PIXELS:
        raise ValueError(_too_big(name, width, height))


def _too_big(name: str, width: int = 0, height: int = 0) -> str:
    has = f"has {width}x{height} pixels ({width * height / 1e6:.0f} megapixels), which is" if width else "is"
    return (
        f"{name} {has} more than the {MAX_PIXELS // 10**6} megapixels accepted here. Make it smaller first."
    )


def _from_array(array: np.ndarray) -> Image.Image:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4) or not array.size:
        raise ValueError(
            "An array must be uint8 of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), "
            f"not {array.dtype} of shape {array.shape}."
        )
    return Image.fromarray(array[..., 0] if array.ndim == 3 and channels == 1 else array)


@contextmanager
def _quiet():
    """Pillow warns of odd EXIF and of more than 89 megapixels; what matters of that we say ourselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation 1 to 8. A broken EXIF block is no reason to refuse a picture; it counts as upright."""
    try:
        with _quiet():
            orientation = picture.getexif().get(0x0112, 1)
    except Exception:
        return 1
    return orientation if orientation in range(1, 9) else 1


def _is_animated(picture: Image.Image) -> bool:
    """Phones put previews beside a JPEG (MPO) and scanners pages into a TIFF; only these formats move."""
    try:
        return picture.format in ("GIF", "WEBP", "PNG", "AVIF") and getattr(picture, "is_animated", False)
    except Exception:  # looking for a second frame reads on in the file, which may be cut off there
        return False


def _turn(picture: Image.Image) -> Image.Image:
    picture.load()
    return ImageOps.exif_transpose(picture) if _orientation(picture) != 1 else picture


def _flatten(picture: Image.Image) -> Image.Image:
    """Any mode to 8-bit RGB on white; always a new picture."""
    if picture.mode.startswith("I") or picture.mode == "F":
        return _from_deep(picture)
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    # Pillow has no direct way from grey with premultiplied alpha.
    rgba = (picture.convert("LA") if picture.mode == "La" else picture).convert("RGBA")
    flat = Image.new("RGB", rgba.size, "white")
    flat.paste(rgba.convert("RGB"), mask=rgba.getchannel("A"))
    return flat


def _from_deep(picture: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits a pixel to 8-bit RGB, with 65535 as white; floats are taken as [0, 1] or, when any is above
    2, as 0-255.

    A PNG's 16-bit colour key (tRNS) becomes white, as all that is transparent.
    """
    values = np.asarray(picture)
    if picture.mode == "F":
        values = np.nan_to_num(values)
        white = 1.0 if values.max() <= 2 else 255.0  # resampling overshoots
    else:
        white = 65535.0
    grey = (np.clip(values / np.float32(white), 0, 1) * 255).round().astype(np.uint8)
    key = picture.info.get("transparency")
    if isinstance(key, int):
        grey[values == key] = 255
    return Image.fromarray(grey).convert("RGB")


def _reason(error: Exception) -> str:
    text = str(error).strip().splitlines()
    told = isinstance(error, (OSError, SyntaxError, ValueError, EOFError)) and text
    return text[0] if told else type(error).__name__
