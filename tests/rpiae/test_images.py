"""Pictures in every form that people have, and files that are no pictures."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from rpiae.images import describe, letterbox, load, load_mask, to_pil, to_tensor


def noise(width: int, height: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def saved(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png_bomb(width: int, height: int) -> bytes:
    """A small grey PNG that claims, and would really unpack to, width x height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


# --- loading ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture_upright(orientation):
    upright = Image.fromarray(noise(40, 24))
    # How a camera would have stored the upright picture so that this orientation shows it upright again.
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(stored, exif=exif)
    assert np.array_equal(load(data), upright)
    assert describe(data).size == (40, 24)
    assert describe(data).turned == (orientation != 1)


def test_broken_exif_does_not_refuse_the_picture():
    image = Image.fromarray(noise(20, 20))
    assert np.array_equal(load(saved(image, exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")), image)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_transparent_parts_become_white_and_opaque_ones_stay(format):
    rgba = noise(32, 20, 4)
    rgba[..., 3] = np.where(np.arange(32) < 16, 255, 0)
    data = saved(Image.fromarray(rgba), format, **({"lossless": True} if format == "WEBP" else {}))
    pixels = np.asarray(load(data))
    assert np.array_equal(pixels[:, :16], rgba[:, :16, :3])
    assert (pixels[:, 16:] == 255).all()
    assert describe(data).had_alpha


def test_half_transparent_is_mixed_with_white():
    pixels = np.asarray(load(Image.new("RGBA", (16, 16), (0, 100, 200, 128))))
    assert np.abs(pixels[0, 0].astype(int) - [127, 177, 227]).max() <= 1


def test_grey_forms():
    grey = noise(24, 18, 1)
    expected = np.repeat(grey[..., None], 3, axis=2)
    alpha = Image.merge("LA", [Image.fromarray(grey), Image.new("L", (24, 18), 255)])
    for source in (Image.fromarray(grey), alpha, saved(alpha), grey, grey[..., None]):
        assert np.array_equal(load(source), expected)
    bits = Image.fromarray(grey).convert("1")
    assert np.array_equal(load(saved(bits)), np.asarray(bits.convert("RGB")))


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_range(format):
    values = np.linspace(0, 65535, 64 * 32).reshape(32, 64).astype(np.uint16)
    pixels = np.asarray(load(saved(Image.fromarray(values), format)))
    assert np.array_equal(pixels[..., 0], np.round(values / 257).astype(np.uint8))
    assert pixels.min() == 0 and pixels.max() == 255


def test_float_grey():
    ramp = np.linspace(0, 1, 16 * 16, dtype=np.float32).reshape(16, 16)
    for values in (ramp, ramp * 255):
        assert np.array_equal(np.asarray(load(Image.fromarray(values)))[..., 1], np.round(ramp * 255))


def test_a_float_picture_that_resampling_took_above_white_stays_as_bright():
    values = np.full((16, 16), 0.7, dtype=np.float32)
    values[0, 0] = 1.01
    grey = np.asarray(load(Image.fromarray(values)))
    assert grey[8, 8].tolist() == [178] * 3 and grey[0, 0].tolist() == [255] * 3


def test_colour_key_of_a_png_is_white():
    grey = np.full((16, 16), 40, dtype=np.uint8)
    grey[:8] = 7
    for depth, key in ((1, 7), (257, 7 * 257)):
        values = grey.astype(np.uint16) * depth if depth > 1 else grey
        pixels = np.asarray(load(saved(Image.fromarray(values), transparency=key)))
        assert (pixels[:8] == 255).all() and (pixels[8:] == 40).all()


def test_palette_with_and_without_transparency():
    palette = Image.new("P", (20, 20), 0)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.paste(1, (0, 0, 10, 20))
    pixels = np.asarray(load(saved(palette)))
    assert (pixels[:, :10] == (200, 100, 50)).all() and (pixels[:, 10:] == (10, 20, 30)).all()
    pixels = np.asarray(load(saved(palette, transparency=1)))
    assert (pixels[:, :10] == 255).all() and (pixels[:, 10:] == (10, 20, 30)).all()


def test_cmyk_jpeg():
    picture = load(saved(Image.new("CMYK", (32, 32), (255, 0, 255, 0)), "JPEG"))
    red, green, blue = picture.getpixel((16, 16))
    assert picture.mode == "RGB" and green > 200 and red < 50 and blue < 50


@pytest.mark.parametrize("mode", ["YCbCr", "LAB", "HSV", "RGBX", "RGBa", "La", "PA"])
def test_rarer_modes_load(mode):
    start = {"La": "LA", "PA": "P"}.get(mode, "RGBA" if mode in ("RGBa", "RGBX") else "RGB")
    image = Image.new("RGB", (16, 16), "gray")
    image = Image.new("LAB", (16, 16), (128, 128, 128)) if mode == "LAB" else image.convert(start).convert(mode)
    assert load(image).mode == "RGB"


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_animated_takes_the_first_frame(format):
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue", "lime")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = saved(frames[0], format, save_all=True, append_images=frames[1:], duration=50, **options)
    assert (np.asarray(load(data)) == (255, 0, 0)).all()
    assert describe(data).animated


def test_rgb_profile_stays_and_others_go():
    profile = bytes(16) + b"RGB " + bytes(108)
    image = Image.fromarray(noise(16, 16))
    assert load(saved(image, icc_profile=profile)).info == {"icc_profile": profile}
    assert load(saved(image, icc_profile=bytes(16) + b"CMYK" + bytes(108))).info == {}
    assert load(saved(Image.fromarray(noise(16, 16, 1)), icc_profile=profile)).info == {}


def test_the_given_picture_is_not_touched(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.png"
    Image.fromarray(noise(20, 30)).save(path, exif=exif)
    with Image.open(path) as image:
        before = np.asarray(image)
        loaded = load(image)
        loaded.putpixel((0, 0), (1, 2, 3))
        assert image.size == (20, 30) and np.array_equal(image, before)
    rgb = Image.fromarray(noise(20, 20))
    assert load(rgb) is not rgb


def test_12_megapixels_load_and_letterbox():
    image = Image.new("RGB", (4000, 3000), "teal")
    square, frame = letterbox(load(saved(image, "JPEG")))
    assert square.size == (256, 256) and frame.box == (0, 32, 256, 224)


# --- what is refused -------------------------------------------------------------------------------------


def refused(source, *words: str) -> str:
    with pytest.raises(ValueError) as caught:
        load(source)
    message = str(caught.value)
    for word in words:
        assert word in message
    assert "\n" not in message and message.endswith((".", "once more."))
    return message


def test_files_that_are_no_pictures(tmp_path):
    text = tmp_path / "notes.png"
    text.write_text("These are notes, not a picture.")
    message = refused(text, "'notes.png' is not a picture", "PNG, JPEG")
    assert str(tmp_path) not in message
    refused(str(text), "notes.png")
    (tmp_path / "empty.png").touch()
    refused(tmp_path / "empty.png", "'empty.png' is empty")
    refused(tmp_path / "none.png", "no file 'none.png'")
    refused(tmp_path, "folder")
    refused(b"", "empty")
    refused(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n", "not a picture")
    refused(12, "int")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
def test_cut_off_files(format, part):
    data = saved(Image.fromarray(noise(64, 64)), format)
    refused(data[: int(len(data) * part)], "The picture")


def test_files_with_damage_inside_load_or_are_refused_in_one_sentence():
    """Decoders forgive some damage; what matters is that nothing but ValueError ever comes out."""
    rng = np.random.default_rng(3)
    refusals = 0
    for format in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        data = saved(Image.fromarray(noise(32, 32)), format)
        for _ in range(30):
            damaged = bytearray(data)
            for position in rng.integers(0, len(data), 6):
                damaged[position] = rng.integers(0, 256)
            try:
                assert load(bytes(damaged)).mode == "RGB"
            except ValueError as error:
                refusals += 1
                assert "\n" not in str(error)
    assert refusals > 30


def test_too_small_and_too_big():
    refused(Image.new("RGB", (15, 300)), "15x300", "at least 16")
    load(Image.new("RGB", (16, 300)))
    refused(Image.new("L", (8000, 5001)), "8000x5001", "40 megapixels")
    load(Image.new("1", (8000, 5000)))


@pytest.mark.parametrize("side", [7000, 9600, 14000])
def test_png_bombs_are_refused_before_decoding(side, monkeypatch, recwarn):
    data = png_bomb(side, side)
    assert len(data) < 400_000

    def never(self):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", never)
    refused(data, "40 megapixels")
    assert not recwarn.list


def test_arrays_of_other_kinds():
    refused(np.zeros((20, 20, 3), np.float32), "uint8", "float32")
    refused(np.zeros((20, 20, 2), np.uint8), "(20, 20, 2)")
    refused(np.zeros((2, 20, 20, 3), np.uint8), "(2, 20, 20, 3)")


# --- masks -----------------------------------------------------------------------------------------------


def test_mask_by_brightness_or_by_alpha():
    painted = np.zeros((20, 30), dtype=bool)
    painted[5:9, 3:20] = True
    white = Image.fromarray(painted)
    brush = np.zeros((20, 30, 4), dtype=np.uint8)
    brush[painted] = (255, 0, 255, 153)
    opaque = np.dstack([np.repeat((painted * 200).astype(np.uint8)[..., None], 3, 2), np.full((20, 30), 255)])
    for source in (white, white.convert("L"), white.convert("RGB"), brush, opaque.astype(np.uint8)):
        mask = load_mask(source, (30, 20))
        assert mask.mode == "L" and np.array_equal(np.asarray(mask), painted * 255)
    assert np.array_equal(np.asarray(load_mask(saved(white), (30, 20))), painted * 255)


def test_mask_mistakes():
    with pytest.raises(ValueError, match="30x20 pixels, the picture 20x30"):
        load_mask(Image.new("L", (30, 20), 255), (20, 30))
    for empty in (Image.new("L", (30, 20)), Image.new("RGBA", (30, 20))):
        with pytest.raises(ValueError, match="Nothing is painted"):
            load_mask(empty, (30, 20))


# --- letterbox and tensors -------------------------------------------------------------------------------


def test_a_square_of_the_models_size_passes_bit_for_bit():
    image = Image.fromarray(noise(256, 256))
    square, frame = letterbox(image)
    assert frame.is_exact and np.array_equal(square, image)
    assert np.array_equal(frame.undo(square), image)
    assert np.array_equal(to_pil(to_tensor(square))[0], image)


@pytest.mark.parametrize("size", [(512, 512), (300, 200), (200, 300), (64, 48), (16, 700), (257, 255)])
def test_letterbox_keeps_proportions_and_undo_gives_the_size_back(size):
    square, frame = letterbox(Image.new("RGB", size, "navy"))
    left, top, right, bottom = frame.box
    pixels = np.asarray(square)
    inside = np.zeros((256, 256), dtype=bool)
    inside[top:bottom, left:right] = True
    assert (pixels[inside] == (0, 0, 128)).all() and (pixels[~inside] == 255).all()
    assert max(right - left, bottom - top) == 256
    assert abs((right - left) / (bottom - top) - size[0] / size[1]) <= 1.01 * max(1, size[0] / size[1]) / min(
        right - left, bottom - top
    )
    assert abs(left - (256 - right)) <= 1 and abs(top - (256 - bottom)) <= 1
    undone = frame.undo(square)
    assert undone.size == size and (np.asarray(undone) == (0, 0, 128)).all()


def test_there_and_back_does_not_shift():
    """A dot stays where it is, to half a pixel, at a size that fits badly."""
    image = Image.new("RGB", (1477, 2056), "white")
    image.paste("black", (700, 1200, 800, 1300))
    square, frame = letterbox(image)
    ink = 255 - np.asarray(frame.undo(square).convert("L")).astype(np.float64)
    rows, columns = np.indices(ink.shape)
    assert abs((columns * ink).sum() / ink.sum() - 749.5) < 0.5
    assert abs((rows * ink).sum() / ink.sum() - 1249.5) < 0.5


def test_undo_refuses_a_foreign_square():
    _, frame = letterbox(Image.new("RGB", (300, 200)))
    with pytest.raises(ValueError, match="256x256"):
        frame.undo(Image.new("RGB", (128, 128)))


def test_what_is_no_file_of_a_pictures_size_is_not_read(tmp_path):
    with open(tmp_path / "film.mkv", "wb") as film:
        film.truncate(8 * 1024**3)  # a hole: nothing is on the disk
    with pytest.raises(ValueError, match="8192 MB, more than the 512 MB"):
        load(tmp_path / "film.mkv")
    with pytest.raises(ValueError, match="'zero' is no file"):
        load("/dev/zero")


def test_tensors_and_back_are_exact():
    images = [Image.fromarray(noise(20, 16, seed=seed)) for seed in range(3)]
    tensor = to_tensor(images)
    assert tensor.shape == (3, 3, 16, 20) and tensor.dtype == torch.float32
    assert tensor.min() >= 0 and tensor.max() <= 1
    for image, back in zip(images, to_pil(tensor), strict=True):
        assert np.array_equal(image, back)
    grey = Image.fromarray(noise(20, 16, 1))
    assert to_pil(to_tensor(grey)[0])[0].mode == "L"


def test_to_pil_clamps_and_rounds():
    values = torch.tensor([-1.0, 0.4999 / 255, 0.5001 / 255, 254.6 / 255, 7.0]).expand(3, 1, 5)
    assert np.asarray(to_pil(values)[0])[0, :, 0].tolist() == [0, 0, 1, 255, 255]


def test_tensor_mistakes():
    with pytest.raises(ValueError, match="one size"):
        to_tensor([Image.new("RGB", (16, 16)), Image.new("RGB", (16, 17))])
    with pytest.raises(ValueError, match="shape"):
        to_pil(torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match="no numbers"):
        to_pil(torch.full((3, 8, 8), float("nan")))
