"""The studio in a real browser: Debian's Chromium, driven by Playwright, on an app.py process of its own.

Every page is watched: a console error, a request to another host or an answer of 400 and above fails its test.
Without Chromium the tests are skipped, and the run says so loudly.
"""

import functools
import re
from pathlib import Path

import pytest
from PIL import Image

from tests.browser.server import Studio
from tests.browser.waits import PATIENCE, rest
from tests.chromium import CHROMIUM, FLAGS


@pytest.fixture(scope="session")
def studio(studio_checkpoint, tmp_path_factory):
    running = Studio(studio_checkpoint, tmp_path_factory.mktemp("server"))
    running.runner = Path(__file__).with_name("paced_app.py")
    running.start()
    yield running
    running.close()


@pytest.fixture(scope="session")
def chromium():
    from playwright.sync_api import Locator, sync_playwright

    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        for name in ("fill", "check", "uncheck", "press_sequentially"):
            patch.setattr(Locator, name, at_rest(getattr(Locator, name)))
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def at_rest(enter):
    """`enter` of a locator, once its page is at rest."""

    @functools.wraps(enter)
    def entering(locator, *given, **options):
        locator.wait_for()
        rest(locator.page)
        return enter(locator, *given, **options)

    return entering


@pytest.fixture(scope="session")
def expect():
    """Playwright's assertions that wait, as patient as all else here."""
    from playwright import sync_api

    sync_api.expect.set_options(timeout=PATIENCE)
    return sync_api.expect


@pytest.fixture
def faults() -> list[str]:
    """What went wrong on the pages of this test; must be empty at its end."""
    return []


@pytest.fixture
def forgive(faults):
    """Takes faults out that hold one of the words: what a test itself has brought about."""

    def take_out(*words: str) -> None:
        faults[:] = [fault for fault in faults if not any(word in fault for word in words)]

    return take_out


@pytest.fixture
def profile(chromium, studio, faults):
    """Makes browser profiles, each of its own and watched; `options` are those of Playwright's `new_context`."""
    made = []

    def make(**options):
        fresh = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        fresh.set_default_timeout(PATIENCE)
        fresh.on("page", watch)
        made.append(fresh)
        return fresh

    def watch(page):
        page.on("console", lambda said: faults.append(f"console: {said.text}") if said.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(f"script: {error}"))
        page.on("request", lambda asked: at_home(asked.url) or faults.append(f"outside: {asked.url}"))
        page.on("response", lambda got: got.status < 400 or faults.append(f"{got.status}: {got.url}"))

    def at_home(url: str) -> bool:
        return url.startswith((studio.url, "data:", "blob:"))

    yield make
    for one in made:
        one.close()
    assert faults == []


@pytest.fixture
def context(profile):
    """The browser profile of most tests."""
    return profile()


@pytest.fixture
def open_studio(context, studio, forgive):
    """Opens the studio in a page, or in the one given again; returns when what this browser did before is there."""

    def open_page(page=None, url: str = studio.url):
        leaving = page is not None
        page = page or context.new_page()
        page.goto("about:blank")  # else a page that finds its server again reloads itself in the midst of this
        page.goto(url)
        page.locator("#tabs").wait_for()
        page.wait_for_function("document.querySelector('#edit-seed input')?.value")
        if leaving:  # what Gradio's own script says of a stream that was open when the page went away
            forgive("AbortError", "Connection errored out", "Failed to fetch", "network error")
        return page

    return open_page


@pytest.fixture
def page(open_studio):
    """The studio, ready for input."""
    return open_studio()


@pytest.fixture
def begin_long():
    """Begins to generate with many steps, which take longer than what a test does meanwhile on a busy machine; returns
    once they are shown."""

    def begin(page, words: str = "a cat on the moon", pictures: int = 4) -> None:
        page.get_by_role("tab", name="Generate").click()
        page.locator("#generate-prompt textarea").fill(words)
        page.get_by_text("More settings").locator("visible=true").click()
        for name, value in {"Pictures": str(pictures), "Steps": "100"}.items():
            field = page.locator(".room:visible").get_by_label(f"number input for {name}")
            field.fill(value)
            field.press("Tab")
            # The page takes over what was typed a moment later; its slider shows when it has.
            slider = f"[...document.querySelectorAll('input[type=range]')].some(one => one.value === '{value}')"
            page.wait_for_function(slider)
        page.locator("#generate-run").click()
        page.locator("#generate-status", has_text=re.compile(r"Step \d+ of 100")).wait_for()

    return begin


@pytest.fixture
def upload(tmp_path):
    """Saves a picture and hands it to a tab's upload; returns when the page has described it."""

    def put(page, tab: str, image: Image.Image, name: str = "picture.png", **options):
        path = tmp_path / name
        image.save(path, **options)
        page.locator(f"#{tab}-picture input[type=file]").set_input_files(path)
        page.locator(f"#{tab}-note .note").wait_for()
        return path

    return put
