"""Pictures as people have them: turned by a camera, in every mode, too large. And previews, and two at once."""

import re

import numpy as np
from PIL import Image

LIMIT = 30 * 1024 * 1024  # of an upload, see app.studio
TURNS = range(1, 9)  # of EXIF


def put(page, path, words: str) -> None:
    page.locator("#edit-picture input[type=file]").set_input_files(path)
    page.locator("#edit-note", has_text=words).wait_for()


def test_a_cameras_pictures_are_upright_whatever_it_wrote_down(page, tmp_path, picture):
    for turn in TURNS:
        exif = Image.Exif()
        exif[274] = turn
        stored = picture.resize((200 + turn, 100))
        stored.save(tmp_path / f"{turn}.jpg", exif=exif)
        upright = f"100 × {200 + turn}" if turn > 4 else f"{200 + turn} × 100"
        put(page, tmp_path / f"{turn}.jpg", upright + (", turned upright" if turn > 1 else ""))


def test_pictures_of_every_mode_are_taken(page, tmp_path, picture):
    modes = {name: picture.convert(name) for name in ("L", "P", "CMYK", "1", "LA")}
    modes["I;16"] = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    for side, (name, image) in enumerate(modes.items(), 40):
        path = tmp_path / f"{side}.{'jpg' if name == 'CMYK' else 'png'}"
        image.resize((side, 50)).save(path)
        put(page, path, f"{side} × 50")
        assert page.locator("#edit-note .wrong").count() == 0, name


def test_a_file_over_the_limit_is_refused_by_name_and_the_next_one_taken(page, studio, tmp_path, picture, forgive):
    big = tmp_path / "big.png"
    big.write_bytes(bytes(LIMIT + 1))
    page.locator("#edit-picture input[type=file]").set_input_files(big)
    page.get_by_text(re.compile("exceed the maximum allowed size.*big.png", re.DOTALL)).wait_for()
    answer = page.request.post(
        studio.url + "gradio_api/upload",
        multipart={"files": {"name": "big.png", "mimeType": "image/png", "buffer": big.read_bytes()}},
    )
    assert answer.status == 413
    picture.save(tmp_path / "picture.png")
    put(page, tmp_path / "picture.png", "256 × 256")
    forgive("upload_progress", "404", "Response")  # Gradio asks how far an upload is that it has refused


def test_previews_follow_the_work_and_leave_no_file(page, studio, begin_long):
    def files() -> set[str]:
        return {str(path) for folder in ("outputs", "gradio") for path in (studio.folder / folder).rglob("*")}

    page.get_by_role("tab", name="Generate").click()
    page.evaluate(
        """() => { window.previews = new Set(); new MutationObserver(() => {
          const image = document.querySelector('#generate-view .preview img');
          if (image) window.previews.add(image.src);
        }).observe(document.body, {subtree: true, childList: true, attributes: true, attributeFilter: ['src']}); }"""
    )
    begin_long(page)
    before = files()
    page.wait_for_function("window.previews.size >= 3")
    assert files() == before
    assert page.evaluate("[...previews].every((uri) => uri.startsWith('data:image/jpeg;base64,'))")
    page.keyboard.press("Escape")
    page.locator("#generate-status", has_text="Stopped at step").wait_for()


def test_two_browsers_wait_for_each_other(page, profile, open_studio, begin_long):
    begin_long(page, "a cat")
    other = open_studio(profile().new_page())
    other.get_by_role("tab", name="Generate").click()
    other.locator("#generate-prompt textarea").fill("a dog")
    other.locator("#generate-run").click()
    other.locator("#generate-status", has_text=re.compile("1 ahead of you|Yours is next")).wait_for()
    page.locator("#generate-stop").click()
    other.locator("#generate-status", has_text="Done in").wait_for()
