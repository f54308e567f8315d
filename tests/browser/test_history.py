"""What a browser has made: found, used again, taken along, deleted; and recipes and links that fill the forms."""

import json
import re
import signal
import zipfile

import pytest
from PIL import Image

from rpiae.recipe import read
from tests.browser.waits import write


def generate(page, words: str, seed: int = 7) -> str:
    """Draws a picture and returns its address."""
    page.get_by_role("tab", name="Generate").click()
    page.locator("#generate-prompt textarea").fill(words)
    page.locator("#generate-fresh input").uncheck()
    page.locator("#generate-seed input").fill(str(seed))
    page.locator("#generate-run").click()
    page.locator(f'#generate-view img[alt="Result: {words}"]').wait_for()
    return page.locator("#generate-view a.tool").first.get_attribute("href")


def history(page):
    """The cards of the History tab, once it is on show."""
    page.get_by_role("tab", name="History").click()
    page.locator("#history-list .job-card, #history-list .empty").first.wait_for()
    return page.locator("#history-list .job-card")


def value(page, selector: str, wanted: str) -> None:
    page.wait_for_function("([s, v]) => document.querySelector(s)?.value === v", arg=[selector, wanted])


def test_history_is_searched_used_again_taken_along_and_deleted(page, studio, expect):
    generate(page, "a cat on the moon", 41)
    address = generate(page, "a dog in the sea", 42)
    cards = history(page)
    assert cards.count() == 2 and "a dog" in cards.first.inner_text() and "Seed 42" in cards.first.inner_text()

    page.locator("#history-search input, #history-search textarea").first.fill("MOON")
    page.wait_for_function("document.querySelectorAll('#history-list .job-card').length === 1")
    page.get_by_role("button", name="Use these settings").click()
    value(page, "#generate-prompt textarea", "a cat on the moon")
    value(page, "#generate-seed input", "41")
    expect(page.locator("#generate-fresh input")).not_to_be_checked()
    expect(page.get_by_role("tab", name="Generate")).to_have_attribute("aria-selected", "true")

    history(page)
    search = page.locator("#history-search input, #history-search textarea").first
    expect(search).to_have_value("MOON")  # back a frame later; emptied before that, it would come back
    search.fill("")
    page.wait_for_function("document.querySelectorAll('#history-list .job-card').length === 2")
    page.locator("#history-list summary").first.click()
    page.get_by_role("button", name="Yes, delete it").first.click()
    page.locator("#history-note", has_text="Deleted").wait_for()
    page.wait_for_function("document.querySelectorAll('#history-list .job-card').length === 1")
    assert not (studio.outputs / address.split("/")[1]).exists()
    assert page.request.get(studio.url + address).status == 404


def test_the_history_is_taken_along_as_a_zip(page):
    address = generate(page, "a cat on the moon", 41)
    history(page)
    with page.expect_download() as begun:
        page.get_by_role("link", name="Export zip").click()
    names = zipfile.ZipFile(begun.value.path()).namelist()
    assert len(names) == 2 and address.split("/")[-1] in names


def test_a_picture_of_the_history_is_edited_and_opened(page, expect):
    generate(page, "a cat on the moon")
    history(page)
    page.get_by_role("button", name="Edit this").click()
    page.locator("#edit-picture img").wait_for()
    page.locator("#edit-note", has_text="256 × 256").wait_for()
    history(page)
    page.get_by_role("button", name="Open: a cat on the moon").click()
    page.locator("#generate-view .tools").wait_for()
    expect(page.get_by_role("tab", name="Generate")).to_have_attribute("aria-selected", "true")


def test_nobody_sees_anothers_history_nor_deletes_in_it(page, profile, open_studio):
    generate(page, "a secret cat")
    assert history(page).count() == 1
    other = open_studio(profile().new_page())
    assert history(other).count() == 0
    assert "Nothing here yet" in other.locator("#history-list").inner_text()


def test_history_and_a_cut_off_job_after_the_server_was_killed(studio, page, open_studio, forgive, begin_long):
    generate(page, "a cat on the moon", 5)
    begin_long(page, "a dog in the sea")
    studio.stop(signal.SIGKILL)
    page.wait_for_timeout(500)
    studio.start()
    open_studio(page)
    cards = history(page)
    assert cards.count() == 2
    assert "Interrupted" in cards.first.inner_text() and "a dog in the sea" in cards.first.inner_text()
    assert cards.nth(1).locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 256
    cards.first.get_by_role("button", name="Use these settings").click()
    value(page, "#generate-seed input", "5")
    page.locator("#generate-run").wait_for()
    forgive("ERR_CONNECTION", "ERR_INCOMPLETE_CHUNKED", "errored out", "Failed to fetch", "network error")


def test_words_typed_while_the_server_is_away_are_kept(studio, page, open_studio, forgive):
    page.locator("#model", has_text="CPU").wait_for()  # the page has all its parts
    write(page, "make the car")
    studio.stop(signal.SIGKILL)
    page.wait_for_timeout(500)
    write(page, " blue")
    studio.start()
    open_studio(page)
    value(page, "#edit-prompt textarea", "make the car blue")
    forgive("ERR_CONNECTION", "ERR_INCOMPLETE_CHUNKED", "errored out", "Failed to fetch", "network error")


def test_a_dropped_picture_restores_its_settings(page, open_studio, context, tmp_path, upload, picture, expect):
    upload(page, "edit", picture)
    page.locator("#edit-prompt textarea").fill("make the car blue")
    page.locator("#edit-fresh input").uncheck()
    page.locator("#edit-seed input").fill("2147483647")
    page.locator("#edit-run").click()
    with page.expect_download() as begun:
        page.get_by_role("link", name="Download PNG").click()
    name = begun.value.suggested_filename
    assert re.fullmatch(r"rpiae_[0-9a-f]{8}_seed2147483647\.png", name)
    begun.value.save_as(tmp_path / name)
    recipe = read(tmp_path / name)

    page.locator("#edit-prompt textarea").fill("something else")
    page.locator("#edit-seed input").fill("3")
    page.get_by_role("tab", name="History").click()
    page.locator("#history-drop input[type=file]").set_input_files(tmp_path / name)
    value(page, "#edit-prompt textarea", "make the car blue")
    value(page, "#edit-seed input", "2147483647")
    expect(page.get_by_role("tab", name="Edit")).to_have_attribute("aria-selected", "true")

    # In another browser the picture that was edited is not there; the rest is.
    page.evaluate("localStorage.clear()")
    other = open_studio(context.new_page())
    other.get_by_role("tab", name="Edit").click()
    other.locator("#edit-picture input[type=file]").set_input_files(tmp_path / name)
    value(other, "#edit-prompt textarea", "make the car blue")
    value(other, "#edit-seed input", "2147483647")
    told = other.locator("#edit-restored").inner_text()
    assert recipe.source_sha256[:12] in told and "settings are from this PNG" in told


def test_what_a_recipe_cannot_bring_back_is_said(page, tmp_path):
    from rpiae.recipe import Recipe, save_png

    made = Recipe(kind="generate", prompt="a fox", seed=9, checkpoint="other", checkpoint_sha256="f" * 64)
    save_png(Image.new("RGB", (64, 64)), tmp_path / "other.png", made)
    page.locator("#model", has_text="CPU").wait_for()
    page.get_by_role("tab", name="Generate").click()
    page.get_by_text("Settings from a PNG").locator("visible=true").first.click()
    page.locator("#generate-drop input[type=file]").set_input_files(tmp_path / "other.png")
    value(page, "#generate-prompt textarea", "a fox")
    value(page, "#generate-seed input", "9")
    page.locator("#generate-restored", has_text="another checkpoint (other, SHA-256 ffffffffffff…)").wait_for()
    Image.new("RGB", (64, 64)).save(tmp_path / "plain.png")
    page.locator("#generate-drop input[type=file]").set_input_files(tmp_path / "plain.png")
    page.locator("#generate-restored", has_text="no recipe in this picture").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_link_fills_the_form_of_another_browser_and_runs_nothing(
    page, context, profile, open_studio, studio, scheme, expect
):
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    generate(page, "a cat & a “dog”", 42)
    page.get_by_role("button", name="Copy link").click()
    page.get_by_role("button", name="Copied").wait_for()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link.startswith(studio.url + "?tab=generate&")
    jobs = len(list(studio.outputs.iterdir()))
    other = open_studio(profile(color_scheme=scheme).new_page(), link)
    value(other, "#generate-prompt textarea", "a cat & a “dog”")
    value(other, "#generate-seed input", "42")
    other.wait_for_function("document.querySelector('#generate-fresh input').checked === false")
    expect(other.get_by_role("tab", name="Generate")).to_have_attribute("aria-selected", "true")
    assert "Nothing runs" in other.locator("#generate-restored").inner_text()
    other.wait_for_timeout(1000)
    assert other.locator("#generate-view .empty").count() == 1
    assert len(list(studio.outputs.iterdir())) == jobs


def test_several_jobs_wait_in_line_and_leave_it(page, studio, begin_long):
    begin_long(page, "a cat")
    page.locator("#generate-run", has_text="Add to queue").wait_for()
    for number, words in enumerate(("a dog", "a fox"), 1):
        page.locator("#generate-prompt textarea").fill(words)
        page.locator("#generate-run").click()
        page.locator("#jobs li", has_text=f"Place {number} in line").wait_for()
    assert page.locator("#generate-view .stage").count() == 1  # the first is still on show
    page.get_by_role("button", name="Remove: a dog").click()
    page.locator("#jobs li", has_text="Place 1 in line").wait_for()
    rows = page.locator("#jobs li")
    page.locator("#generate-stop").click()
    page.locator("#generate-status", has_text="Stopped at step").wait_for()
    page.locator("#generate-run", has_text=re.compile(r"^\s*Generate\s*$")).wait_for()
    rows.filter(has_text="a fox").filter(has_text=re.compile(r"Step|Running")).wait_for()
    page.get_by_role("button", name="Show: a fox").click()
    page.locator("#generate-status", has_text=re.compile(r"Step \d+ of 100")).wait_for()
    page.locator("#generate-stop").click()
    page.locator("#generate-status", has_text="Stopped at step").wait_for()
    told = [json.loads(path.read_text()) for path in studio.outputs.glob("*/job.json")]
    assert [job["state"] for job in told if job["request"].get("prompt") == "a dog"] == ["stopped"]


def test_history_fits_a_phone(context, open_studio):
    phone = context.new_page()
    phone.set_viewport_size({"width": 390, "height": 844})
    phone = open_studio(phone)
    generate(phone, "a cat on the moon with a rather long description that has to go on over several lines")
    history(phone)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    for button in phone.locator("#history-list .tool:visible").all():
        assert button.bounding_box()["height"] >= 24
