"""The Models tab in a browser: load another checkpoint and draw by class, a wrong folder, freeing, the hub.

A server of its own: what is loaded belongs to the whole server.
"""

import re
import threading
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from rpiae.recipe import read
from tests.app.tiny_hub import TinyHub
from tests.browser.server import Studio
from tests.browser.waits import rest, until


@pytest.fixture(scope="module")
def tiny_hub(class_checkpoint):
    server = TinyHub(class_checkpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def studio(studio_checkpoint, tiny_hub, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models-server")
    running = Studio(studio_checkpoint, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        patch.setenv("HF_ENDPOINT", tiny_hub.address)
        patch.setenv("HF_HUB_CACHE", str(folder / "hub"))
        running.start()
    yield running
    running.close()


def load(page, checkpoint) -> None:
    """Types a checkpoint into the field and presses Load."""
    page.get_by_role("tab", name="Models").click()
    field = page.locator("#models-field input")
    field.fill(str(checkpoint))
    field.press("Tab")
    page.locator("#models-load").click()


def says(page, words: str) -> None:
    page.locator("#models-status", has_text=words).wait_for()


def edits(page, upload, picture) -> None:
    """The Edit tab gives a result."""
    page.get_by_role("tab", name="Edit").click()
    upload(page, "edit", picture)
    page.locator("#edit-prompt textarea").fill("make the car blue")
    page.locator("#edit-run").click()
    page.locator("#edit-view .divider").wait_for()


def test_a_class_conditional_checkpoint_is_loaded_and_draws(
    page, open_studio, class_checkpoint, upload, picture, expect
):
    page.get_by_role("tab", name="Models").click()
    facts = page.locator("#models-panel .facts")
    facts.filter(has_text="edits pictures and draws them from text").wait_for()
    assert "8 × 16 × 16 for a picture of 256 × 256" in facts.inner_text()
    load(page, class_checkpoint)
    says(page, "smoke-classes is loaded.")
    said = facts.inner_text()
    assert "draws pictures by class" in said and "cc-by-4.0" in said and "1,000" in said
    page.locator("#model", has_text="smoke-classes").wait_for()

    page.get_by_role("tab", name="Generate").click()
    box = page.locator("#generate-class input")
    box.wait_for()
    page.locator("#generate-prompt").wait_for(state="hidden")
    expect(box).to_have_value("golden retriever (207)")
    rest(page)
    box.click()
    page.keyboard.press("Control+A")
    page.keyboard.type("retriever")
    page.get_by_role("option", name="curly-coated retriever (206)").wait_for()
    page.get_by_role("option", name="tench").wait_for(state="detached")
    page.keyboard.press("Control+A")
    page.keyboard.type("tench")
    page.get_by_role("option", name="tench (0)").click()
    page.locator("#generate-run").click()
    page.locator("#generate-view .tools").wait_for()
    with page.expect_download() as begun:
        page.get_by_role("link", name="Download PNG").click()
    drawn = Image.open(BytesIO(Path(begun.value.path()).read_bytes()))
    recipe = read(drawn)
    assert drawn.size == (64, 64)
    assert (recipe.class_label, recipe.prompt, recipe.checkpoint) == (0, "tench", "smoke-classes")

    page.get_by_role("tab", name="Edit").click()
    page.locator("#edit-notice", has_text="draws pictures by class; it cannot edit").wait_for()
    assert page.locator("#edit-run").is_disabled()

    open_studio(page)  # a page load later the form still fits, and the job is there
    page.get_by_role("tab", name="Generate").click()
    page.locator("#generate-view .tools").wait_for()
    expect(page.locator("#generate-class input")).to_have_value("tench (0)")
    assert str(class_checkpoint.parent) not in page.locator("body").inner_text()

    load(page, "smoke-studio")
    says(page, "smoke-studio is loaded.")
    page.get_by_role("tab", name="Generate").click()
    page.locator("#generate-prompt textarea").wait_for()
    page.locator("#generate-class").wait_for(state="hidden")
    edits(page, upload, picture)


def test_a_tokenizer_alone_neither_edits_nor_draws(page, class_checkpoint, expect):
    load(page, class_checkpoint / "vae")
    says(page, "vae is loaded.")
    for name, work in (("Edit", "edit"), ("Generate", "draw")):
        page.get_by_role("tab", name=name).click()
        page.locator(f"#{name.lower()}-notice", has_text=f"(a tokenizer alone); it cannot {work}.").wait_for()
        expect(page.locator(f"#{name.lower()}-run")).to_be_disabled()
    load(page, "smoke-studio")
    says(page, "smoke-studio is loaded.")
    page.get_by_role("tab", name="Generate").click()
    page.locator("#generate-run:enabled").wait_for()


def test_a_wrong_folder_is_one_sentence_and_the_old_one_still_edits(page, tmp_path, upload, picture):
    folder = tmp_path / "holiday pictures"
    folder.mkdir()
    load(page, folder)
    says(page, "There is no checkpoint at “holiday pictures”.")
    assert str(tmp_path) not in page.locator("body").inner_text()
    assert "smoke-studio" in page.locator("#models-panel").inner_text()
    edits(page, upload, picture)


def test_what_was_freed_is_loaded_again_by_the_next_picture(page):
    page.get_by_role("tab", name="Models").click()
    page.locator("#models-free").click()
    says(page, "smoke-studio is free")
    page.locator("#model", has_text="memory given back").wait_for()
    page.locator("#models-panel", has_text="not loaded").wait_for()
    page.get_by_role("tab", name="Generate").click()
    page.locator("#generate-prompt textarea").fill("a cat")
    page.locator("#generate-run").click()
    page.locator("#generate-view .tools").wait_for()
    page.get_by_role("tab", name="Models").click()
    page.locator("#models-panel .facts").wait_for()


def test_a_download_shows_host_and_size_first_asks_nobody_before_and_can_be_stopped(page, open_studio, tiny_hub):
    page.get_by_role("tab", name="Models").click()
    page.locator("#models-panel .facts").wait_for()
    assert tiny_hub.asked == []
    load(page, "hf:org/name")
    button = page.get_by_role("button", name="Download")
    button.wait_for()
    assert re.fullmatch(r"Download 0\.\d MB from 127\.0\.0\.1", button.inner_text())
    plan = page.locator("#models-plan").inner_text()
    assert "hf:org/name is not on this machine" in plan and "transformer/diffusion_pytorch_model.safetensors" in plan
    assert not any("/resolve/" in asked for asked in tiny_hub.asked)
    tiny_hub.hold.clear()
    try:
        button.click()
        until(page, lambda: any(asked.startswith("GET /org/name/resolve") for asked in tiny_hub.asked))
        other = open_studio()  # which follows what the first one began
        other.get_by_role("tab", name="Models").click()
        says(other, "Downloading from 127.0.0.1")
        other.locator("#models-stop").click()
        says(other, "The download was stopped")
        says(page, "The download was stopped")
    finally:
        tiny_hub.hold.set()
    load(page, "hf:org/name")
    button.click()
    says(page, "name is loaded.")
    assert "hf:org/name" in page.locator("#models-panel .facts").inner_text()
    assert button.count() == 0
    load(page, "smoke-studio")
    says(page, "smoke-studio is loaded.")
