"""Work goes on without the page: stop, reload, close, restart."""

import re
import signal

from PIL import Image

from tests.browser.waits import until, write


def step_shown(page) -> int:
    line = page.locator("#generate-status .line").inner_text()
    return int(re.search(r"Step (\d+) of", line).group(1))


def test_stop_ends_the_work_and_keeps_what_there_was(page, begin_long):
    begin_long(page, pictures=1)
    page.wait_for_function("/^\\d+ % · RPiAE Studio$/.test(document.title)")
    assert page.locator("#generate-run").inner_text() == "Add to queue"
    at = step_shown(page)
    page.keyboard.press("Escape")
    page.locator("#generate-status", has_text="Stopped at step").wait_for()
    stopped = int(re.search(r"step (\d+)", page.locator("#generate-status").inner_text()).group(1))
    assert at <= stopped < 100  # how many steps went by in between depends on how busy the machine is
    assert "what it had so far" in page.locator("#generate-status").inner_text()
    href = page.get_by_role("link", name="Download PNG").get_attribute("href")
    assert href.endswith("_partial.png")
    assert page.locator("#generate-run").is_enabled() and page.locator("#generate-stop").is_disabled()


def test_a_held_key_runs_once_and_a_word_in_the_making_stops_nothing(page, begin_long):
    begin_long(page)
    page.locator("#generate-prompt textarea").focus()
    composing = "new KeyboardEvent('keydown', {key: 'Escape', isComposing: true, bubbles: true})"
    page.evaluate(f"document.activeElement.dispatchEvent({composing})")
    page.keyboard.down("Control")
    page.keyboard.down("Enter")
    page.locator("#jobs li", has_text="Place 1 in line").wait_for()  # so the first has not been stopped
    page.keyboard.down("Enter")  # a repeat, as of a key that is held
    page.keyboard.up("Enter")
    page.keyboard.up("Control")
    page.get_by_role("button", name="Remove: a cat on the moon").click()
    page.locator("#jobs li").wait_for(state="detached")  # there is no other
    page.keyboard.press("Escape")
    page.locator("#generate-status", has_text="Stopped at step").wait_for()


def test_a_reload_finds_the_running_job_and_the_form_again(page, open_studio, begin_long, expect):
    begin_long(page)
    before = step_shown(page)
    seed = page.locator("#generate-seed input").input_value()
    open_studio(page)
    page.locator("#generate-status", has_text=re.compile(r"Step \d+ of 100")).wait_for()
    assert step_shown(page) >= before
    expect(page.locator("#generate-prompt textarea")).to_have_value("a cat on the moon")
    expect(page.locator("#generate-seed input")).to_have_value(seed)
    page.locator("#generate-stop").click()
    page.locator("#generate-status", has_text="Stopped at step").wait_for()


def test_a_job_finishes_while_no_page_is_open(page, context, open_studio, upload, picture):
    upload(page, "edit", picture)
    page.locator("#edit-prompt textarea").fill("make the car blue")
    page.locator("#edit-run").click()
    page.locator("#edit-status", has_text=re.compile("Step|Starting|Done")).wait_for()
    page.close()
    again = open_studio()
    again.locator("#edit-view .divider").wait_for()
    assert "Done in" in again.locator("#edit-status").inner_text()
    assert again.locator("#edit-prompt textarea").input_value() == "make the car blue"
    again.locator("#edit-picture img").wait_for()
    again.locator("#edit-note", has_text="256 × 256").wait_for()


def test_words_that_were_never_sent_survive_a_reload(page, open_studio):
    write(page, "make the car")
    open_studio(page)
    page.wait_for_function("document.querySelector('#edit-prompt textarea').value === 'make the car'")


def test_run_waits_until_the_form_of_a_page_just_opened_is_filled(context, studio):
    page, held, slow = context.new_page(), [], [True]
    page.route("**/queue/join*", lambda route: held.append(route) if slow else route.continue_())
    page.goto(studio.url)
    page.get_by_role("tab", name="Generate").click()
    page.locator("#generate-run").wait_for()
    until(page, lambda: held)
    assert page.locator("#generate-run").is_disabled()
    slow.clear()
    for route in held:
        route.continue_()
    page.locator("#generate-run:enabled").wait_for()
    page.get_by_role("tab", name="Edit").click()
    page.locator("#edit-run:enabled").wait_for()
    page.get_by_role("tab", name="Compare").click()
    page.locator("#compare-run:enabled").wait_for()


def test_a_restart_finds_results_and_says_what_was_cut_off(
    studio, page, open_studio, forgive, upload, picture, begin_long
):
    upload(page, "edit", picture)
    page.locator("#edit-prompt textarea").fill("make the car blue")
    page.keyboard.press("Control+Enter")
    page.locator("#edit-view .divider").wait_for()
    result = page.get_by_role("link", name="Download PNG").get_attribute("href")
    begin_long(page)
    studio.stop(signal.SIGKILL)
    page.wait_for_timeout(500)
    studio.start()
    open_studio(page)
    page.locator("#generate-view .card").wait_for()
    # what the page said while the server was away
    forgive("ERR_CONNECTION", "ERR_INCOMPLETE_CHUNKED", "errored out", "Failed to fetch", "network error")
    assert "restarted before this was finished" in page.locator("#generate-view").inner_text()
    assert page.locator("#generate-run").is_enabled()
    page.get_by_role("tab", name="Edit").click()
    page.locator("#edit-view .divider").wait_for()
    assert page.get_by_role("link", name="Download PNG").get_attribute("href") == result
    assert page.locator("#edit-view img.after").evaluate("image => image.naturalWidth") == 256


def test_two_browsers_share_nothing(page, profile, studio, open_studio):
    page.get_by_role("tab", name="Generate").click()
    page.locator("#generate-prompt textarea").fill("a cat")
    page.keyboard.press("Control+Enter")
    page.locator("#generate-view .tools").wait_for()
    stranger = profile()
    other = open_studio(stranger.new_page())
    other.get_by_role("tab", name="Generate").click()
    other.locator("#generate-view .empty").wait_for()
    for path in ("results/../job.json", "results/x/source.png", "examples/../app.py", f"results/{'0' * 36}/a.png"):
        assert stranger.request.get(studio.url + path).status == 404


def test_shown_pictures_are_the_files_themselves(page, studio):
    """A preview in a lossy format would hide what is compared."""
    page.get_by_role("tab", name="Generate").click()
    page.locator("#generate-prompt textarea").fill("a cat")
    page.keyboard.press("Control+Enter")
    page.locator("#generate-view .tools").wait_for()
    address = page.locator("#generate-view .stage img").get_attribute("src")
    _, job, name = address.split("/")
    served = page.request.get(studio.url + address)
    assert served.headers["content-type"] == "image/png"
    assert served.body() == (studio.outputs / job / name).read_bytes()
    with Image.open(studio.outputs / job / name) as picture:
        assert picture.format == "PNG"
