"""An edit of one area: painted, by numbers, from a file; outside of it every pixel stays."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.mask import EDITOR_SIDE
from tests.browser.waits import rest, settled


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def prepare(page, upload, image: Image.Image, name: str = "picture.png", **options) -> None:
    """A picture, words and a seed with which the untrained model changes it all."""
    upload(page, "edit", image, name, **options)
    page.locator("#edit-prompt textarea").fill("make it blue")
    page.locator("#edit-fresh input").uncheck()
    page.locator("#edit-seed input").fill("11")
    page.get_by_text("More settings").locator("visible=true").click()
    page.get_by_label("Keep untouched pixels exactly").uncheck()


def choose(page, area: str) -> None:
    page.locator("#edit-area").get_by_text(area, exact=True).click()


def kept(studio) -> set[Path]:
    """Gradio's own PNG files: what pages were given and sent."""
    return set((studio.folder / "gradio").rglob("*.png"))


def result(page, studio) -> Image.Image:
    page.locator("#edit-run").click()
    page.locator("#edit-view .divider").wait_for()
    address = page.get_by_role("link", name="Download PNG").get_attribute("href")
    return Image.open(io.BytesIO(page.request.get(studio.url + address).body()))


def stroke(page) -> None:
    """Paints from left to right across the upper part of the editor's picture."""
    canvas = page.locator("#edit-paint canvas").first
    canvas.wait_for()
    box = settled(canvas)
    y = box["y"] + box["height"] * 0.35
    page.mouse.move(box["x"] + box["width"] * 0.4, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, y, steps=8)
    page.mouse.up()
    rest(page)


def test_pixels_outside_the_painted_area_stay(page, studio, upload, picture):
    prepare(page, upload, picture.resize((300, 300)))
    choose(page, "Paint area")
    stroke(page)
    after, before = pixels(result(page, studio)), pixels(picture.resize((300, 300)))
    changed = (after != before).any(axis=-1)
    assert 0.005 < changed.mean() < 0.5
    address = page.get_by_role("link", name="Download PNG").get_attribute("href")
    allowed = Image.open(studio.outputs / address.split("/")[1] / "allowed.png")
    assert allowed.size == (300, 300)
    assert not changed[np.asarray(allowed) == 0].any()


def test_nothing_painted_is_the_whole_picture(page, studio, upload, picture):
    prepare(page, upload, picture)
    choose(page, "Paint area")
    page.locator("#edit-paint canvas").first.wait_for()
    changed = (pixels(result(page, studio)) != pixels(picture)).any(axis=-1)
    assert changed.mean() > 0.5


def test_a_rectangle_by_keyboard(page, studio, upload, picture):
    prepare(page, upload, picture)
    page.locator("#edit-area input").first.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    for name, value in (("Left", 50), ("Top", 0), ("Width", 50), ("Height", 50)):
        page.get_by_label(f"{name} (%)").fill(str(value))
    changed = (pixels(result(page, studio)) != pixels(picture)).any(axis=-1)
    assert changed[:128, 128:].mean() > 0.5
    assert not changed[128:].any() and not changed[:, :128].any()


def test_a_mask_file_and_one_of_another_shape(page, studio, tmp_path, upload, picture):
    prepare(page, upload, picture)
    choose(page, "Mask file")
    Image.new("L", (100, 50), 255).save(tmp_path / "wide.png")
    page.locator("#edit-mask input[type=file]").set_input_files(tmp_path / "wide.png")
    page.locator("#edit-mask img").wait_for()
    page.locator("#edit-run").click()
    page.get_by_text("has not the picture's shape").wait_for()
    mask = Image.new("L", (128, 128), 0)
    mask.paste(255, (0, 0, 64, 128))
    mask.save(tmp_path / "half.png")
    page.locator("#edit-mask").get_by_label("Remove Image").or_(page.locator("#edit-mask [aria-label=Clear]")).click()
    page.locator("#edit-mask input[type=file]").set_input_files(tmp_path / "half.png")
    page.locator("#edit-mask img").wait_for()
    changed = (pixels(result(page, studio)) != pixels(picture)).any(axis=-1)
    assert changed[:, :120].mean() > 0.5 and not changed[:, 136:].any()


@pytest.mark.slow
def test_a_photo_of_12_megapixels_is_painted_on_as_a_small_copy(page, studio, upload, picture):
    prepare(page, upload, picture.resize((4000, 3000)), "photo.jpg", quality=90)
    before = kept(studio)
    choose(page, "Paint area")
    stroke(page)
    page.locator("#edit-run").click()
    page.locator("#edit-view .divider").wait_for()
    address = page.get_by_role("link", name="Download PNG").get_attribute("href")
    allowed = np.asarray(Image.open(studio.outputs / address.split("/")[1] / "allowed.png"))
    assert allowed.shape == (3000, 4000) and 0 < (allowed > 0).mean() < 0.5
    sizes = {Image.open(path).size for path in kept(studio) - before}  # of what the editor was given, and gave back
    assert (EDITOR_SIDE, EDITOR_SIDE * 3 // 4) in sizes and (4000, 3000) not in sizes


def test_a_picture_keeps_its_exact_size(page, studio, upload, picture):
    source = picture.resize((1477, 2056))
    upload(page, "edit", source)
    page.locator("#edit-prompt textarea").fill("make the car blue")
    after = result(page, studio)
    assert after.size == (1477, 2056)
