"""The main way through the studio, as a person takes it."""

import re
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from rpiae.recipe import read


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def download(page, link) -> tuple[str, Image.Image]:
    """The name and the content of a file, as a click on `link` saves it."""
    with page.expect_download() as begun:
        link.click()
    saved = begun.value
    with open(saved.path(), "rb") as stream:
        return saved.suggested_filename, Image.open(BytesIO(stream.read()))


def test_the_page_loads_with_five_tabs_and_says_what_is_loaded(page):
    assert page.title() == "RPiAE Studio"
    assert page.get_by_role("tab").all_inner_texts() == ["Edit", "Generate", "Compare", "History", "Models"]
    page.locator("#model", has_text="smoke-studio · CPU · float32").wait_for()
    for name in ("Generate", "Compare", "Edit"):
        page.get_by_role("tab", name=name).click()
        page.locator(f"#{name.lower()}-run").wait_for()


def test_a_click_on_an_example_and_one_on_edit_make_an_edit(page, expect):
    example = page.locator("#edit-examples .example").first
    instruction = example.locator("> span:last-child").inner_text()
    example.click()
    page.locator("#edit-note .note", has_text="256 × 256").wait_for()
    assert instruction
    expect(page.locator("#edit-prompt textarea")).to_have_value(instruction)
    status = page.locator("#edit-status [role=status]")
    assert status.inner_text().startswith("An example")  # with the result that came with it
    page.locator("#edit-run").click()
    page.locator("#edit-status [role=status]", has_text="Done in").wait_for()


def test_an_edit_from_upload_to_download(page, studio, upload, picture):
    source = picture.crop((0, 20, 200, 256))
    upload(page, "edit", source, "my car.png")
    assert "200 × 236" in page.locator("#edit-note").inner_text()
    page.locator("#edit-prompt textarea").fill("make the car blue")
    # An untrained model changes nothing with some seeds.
    page.locator("#edit-fresh input").uncheck()
    page.locator("#edit-seed input").fill("11")
    page.locator("#edit-run").click()
    page.locator("#edit-view .divider").wait_for()
    said = page.locator("#edit-status [role=status]").inner_text()
    seed = page.locator("#edit-seed input").input_value()
    assert re.match(rf"Done in .* s\. Seed {seed}\. \d+(\.\d)? % of the picture changed\.", said)

    name, result = download(page, page.get_by_role("link", name="Download PNG"))
    assert re.fullmatch(rf"rpiae_[0-9a-f]{{8}}_seed{seed}\.png", name)
    recipe = read(result)
    assert (recipe.prompt, recipe.seed, recipe.checkpoint) == ("make the car blue", int(seed), "smoke-studio")
    _, mask = download(page, page.get_by_role("link", name="Download mask"))
    assert result.size == mask.size == source.size
    untouched = pixels(mask) == 0
    assert 0.1 < untouched.mean() < 1
    assert (pixels(result)[untouched] == pixels(source)[untouched]).all()
    assert (pixels(result) != pixels(source)).any()


def test_the_divider_moves_by_keyboard_and_space_flips(page, upload, picture):
    upload(page, "edit", picture)
    page.locator("#edit-prompt textarea").fill("make the car blue")
    page.keyboard.press("Control+Enter")
    divider = page.locator("#edit-view .divider")
    divider.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert divider.input_value() == "60"
    after, before = page.locator("#edit-view img.after"), page.locator("#edit-view img.before")
    assert after.get_attribute("alt") == "Result: make the car blue"
    assert "60%" in before.evaluate("image => getComputedStyle(image).clipPath.replace('40%', '60%')")
    checked = page.locator("#edit-view .modes input:checked")
    page.keyboard.press("Space")
    assert checked.input_value() == "before"
    assert before.evaluate("image => getComputedStyle(image).clipPath") == "none"
    page.keyboard.press("Space")
    assert checked.input_value() == "after"
    page.locator("#edit-view label", has_text="Changed area").click()
    assert page.locator("#edit-view img.overlay").evaluate("image => getComputedStyle(image).visibility") == "visible"
    assert page.locator("#edit-view img.overlay").evaluate("image => image.naturalWidth") == 256


def test_pictures_from_text_each_with_its_seed(page):
    page.get_by_role("tab", name="Generate").click()
    page.locator("#generate-ideas .idea").first.click()
    page.wait_for_function("document.querySelector('#generate-prompt textarea').value.startsWith('a cat')")
    page.locator("#generate-count input[type=number]").fill("2")
    page.locator("#generate-count input[type=number]").press("Tab")
    page.locator("#generate-run").click()
    page.locator("#generate-view .tools").nth(1).wait_for()
    seed = int(page.locator("#generate-seed input").input_value())
    assert page.locator("#generate-view .seed").all_inner_texts() == [f"Seed {seed}", f"Seed {seed + 1}"]
    assert f"Seeds {seed} to {seed + 1}" in page.locator("#generate-status [role=status]").inner_text()
    name, second = download(page, page.get_by_role("link", name="Download PNG").nth(1))
    assert name.endswith(f"_seed{seed + 1}.png") and second.size == (256, 256)
    assert read(second).kind == "generate"


def test_a_seed_is_used_again_when_asked_to(page):
    page.get_by_role("tab", name="Generate").click()
    page.locator("#generate-prompt textarea").fill("a cat")
    results = []
    for fresh in (True, False, True):
        page.locator("#generate-fresh input").set_checked(fresh)
        page.locator("#generate-view").evaluate("place => place.dataset.seen = place.querySelector('a.tool')?.href")
        page.locator("#generate-run").click()
        page.wait_for_function(
            "() => { const place = document.querySelector('#generate-view'), link = place.querySelector('a.tool');"
            " return link && link.href !== place.dataset.seen; }"
        )
        results.append(download(page, page.get_by_role("link", name="Download PNG")))
    (_, first), (_, again), (_, other) = results
    assert read(first).seed == read(again).seed != read(other).seed
    assert first.tobytes() == again.tobytes() != other.tobytes()


def test_a_generated_picture_goes_on_to_the_edit_tab(page, expect):
    page.get_by_role("tab", name="Generate").click()
    page.locator("#generate-prompt textarea").fill("a cat")
    page.keyboard.press("Control+Enter")
    page.get_by_role("button", name="Edit this picture").click()
    page.locator("#edit-picture img").wait_for()
    page.locator("#edit-note", has_text="256 × 256").wait_for()
    expect(page.get_by_role("tab", name="Edit")).to_have_attribute("aria-selected", "true")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_everything_without_scrolling_sideways(context, studio, scheme):
    phone = context.new_page()
    phone.set_viewport_size({"width": 390, "height": 844})
    phone.emulate_media(color_scheme=scheme)
    phone.goto(studio.url)
    for name in ("Edit", "Generate", "Compare"):
        phone.get_by_role("tab", name=name).click()
        button = phone.locator(f"#{name.lower()}-run")
        button.wait_for()
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390
        box = button.bounding_box()
        assert box["height"] >= 44 and box["y"] + box["height"] <= 844  # reached without scrolling


@pytest.mark.parametrize("view", ["api", "settings"])
def test_the_pages_that_gradio_adds_stay_at_home_too(context, studio, view):
    page = context.new_page()
    page.goto(f"{studio.url}?view={view}")
    page.locator("#tabs").wait_for()
    page.wait_for_timeout(1000)


