"""What a person gets wrong: one plain sentence each, nothing of this machine in it, and the page goes on."""

import struct
import zlib

import pytest
from PIL import Image

from tests.browser.waits import refused


def bomb(path, side: int = 9000):
    """A PNG of side x side pixels in some hundred kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = b"\0" + bytes(side)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


def no_folder_of_this_machine(page, tmp_path) -> bool:
    text = page.locator("body").inner_text()
    return not any(part in text for part in (str(tmp_path), "/tmp/", "gradio/", "Traceback"))


def works_still(page, upload, picture) -> None:
    upload(page, "edit", picture)
    page.locator("#edit-note", has_text="256 × 256").wait_for()


@pytest.mark.parametrize("tab", ["edit", "compare"])
def test_a_text_file_named_png(page, tmp_path, tab, upload, picture):
    path = tmp_path / "notes.png"
    path.write_text("these are words, not a picture")
    page.get_by_role("tab", name=tab.capitalize()).click()
    page.locator(f"#{tab}-picture input[type=file]").set_input_files(path)
    said = page.locator(f"#{tab}-note .wrong")
    said.wait_for()
    assert "notes.png" in said.inner_text() and said.inner_text().count("\n") == 0
    assert no_folder_of_this_machine(page, tmp_path)
    page.locator(f"#{tab}-picture img").wait_for(state="detached")
    upload(page, tab, picture)
    page.locator(f"#{tab}-note", has_text="256 × 256").wait_for()


def test_a_small_file_with_very_many_pixels(page, tmp_path, upload, picture):
    path = bomb(tmp_path / "bomb.png")
    assert path.stat().st_size < 400_000
    page.locator("#edit-picture input[type=file]").set_input_files(path)
    said = page.locator("#edit-note .wrong")
    said.wait_for()
    assert "megapixel" in said.inner_text()
    works_still(page, upload, picture)


def test_a_picture_that_is_cut_off_and_one_that_is_too_small(page, tmp_path, upload, picture):
    whole = tmp_path / "whole.png"
    picture.save(whole)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:5000])
    Image.new("RGB", (10, 300)).save(tmp_path / "thin.png")
    for name, words in (("cut.png", "cut off"), ("thin.png", "16")):
        page.locator("#edit-picture input[type=file]").set_input_files(tmp_path / name)
        page.locator("#edit-note .wrong", has_text=words).wait_for()
    assert no_folder_of_this_machine(page, tmp_path)
    works_still(page, upload, picture)


def test_no_words_and_no_picture_are_told_beside_the_field(page, forgive):
    page.locator("#model", has_text="float32").wait_for()
    refused(page, page.locator("#edit-run"), "There is no picture yet", "Say what should change")
    told = page.locator(".validation-error:visible")
    page.get_by_role("tab", name="Generate").click()
    page.locator("#generate-prompt textarea").fill("   ")
    page.keyboard.press("Control+Enter")
    told.filter(has_text="Describe the picture you want").wait_for()
    page.get_by_role("tab", name="Compare").click()
    page.locator("#compare-run").click()
    told.filter(has_text="There is no picture yet").wait_for()
    for tab in ("edit", "generate"):
        assert page.locator(f"#{tab}-view .stage").count() == 0  # no job was made
    forgive("422")  # how Gradio's validators answer


def test_a_seed_that_cannot_be(page):
    page.get_by_role("tab", name="Generate").click()
    page.locator("#generate-prompt textarea").fill("a cat")
    page.locator("#generate-fresh input").uncheck()
    page.locator("#generate-seed input").fill("4000000000")
    page.locator("#generate-run").click()
    page.get_by_text("Seed is 4000000000; it must be between 0 and 2147483647").wait_for()
    page.locator("#generate-seed input").fill("2147483647")
    page.locator("#generate-run").click()
    page.locator("#generate-status", has_text="Seed 2147483647").wait_for()


def test_a_transparent_and_a_turned_picture_are_told_and_kept_in_size(page, upload, picture):
    clear = picture.convert("RGBA").resize((120, 90))
    clear.putalpha(Image.linear_gradient("L").resize((120, 90)))
    upload(page, "edit", clear, "clear.png")
    assert "transparent parts become white" in page.locator("#edit-note").inner_text()
    exif = Image.Exif()
    exif[274] = 6
    upload(page, "edit", picture.resize((300, 200)), "phone.jpg", exif=exif)
    page.locator("#edit-note", has_text="200 × 300, turned upright").wait_for()
    page.locator("#edit-prompt textarea").fill("make it blue")
    page.locator("#edit-run").click()
    page.locator("#edit-view .divider").wait_for()
    size = page.locator("#edit-view img.after").evaluate("image => [image.naturalWidth, image.naturalHeight]")
    assert size == [200, 300]
