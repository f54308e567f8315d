"""A phone in a browser: the area that may change is painted by finger, the lens follows it."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.browser.waits import settled, steady

# Where a stroke goes, in parts of the editor's picture.
STROKE = [(0.35 + 0.03 * step, 0.45) for step in range(11)]


@pytest.fixture
def phone(profile, open_studio):
    """The studio on a phone of 390 px, under a finger."""
    screen = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2}
    return open_studio(profile(**screen, has_touch=True, is_mobile=True).new_page())


@pytest.fixture
def finger(phone):
    """Draws a line with one finger through places in parts of an element's box."""
    device = phone.context.new_cdp_session(phone)

    def touch(kind: str, points: list[dict]) -> None:
        device.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def draw(element, places) -> None:
        box = element.bounding_box()
        points = [{"x": box["x"] + box["width"] * x, "y": box["y"] + box["height"] * y} for x, y in places]
        touch("touchStart", points[:1])
        for point in points[1:]:
            touch("touchMove", [point])
            phone.wait_for_timeout(30)
        touch("touchEnd", [])

    return draw


def scrolled(page) -> float:
    return page.evaluate("scrollY")


def test_an_area_is_painted_by_finger(phone, finger, upload, studio, picture):
    upload(phone, "edit", picture)
    phone.locator("#edit-prompt textarea").fill("make it blue")
    phone.get_by_text("More settings").locator("visible=true").tap()
    phone.get_by_label("Keep untouched pixels exactly").uncheck()  # so that the untrained model changes it all
    phone.locator("#edit-area").get_by_text("Paint area", exact=True).tap()
    canvas = phone.locator("#edit-paint canvas").first
    canvas.wait_for()
    box = settled(canvas)
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["height"] >= 200
    before = scrolled(phone)
    finger(canvas, STROKE)
    assert steady(phone, lambda: scrolled(phone)) == before  # the finger paints, the page stays where it is
    phone.locator("#edit-run").tap()
    phone.locator("#edit-view .divider").wait_for()
    address = phone.get_by_role("link", name="Download PNG").get_attribute("href")
    allowed = np.asarray(Image.open(studio.outputs / address.split("/")[1] / "allowed.png"))
    painted = np.argwhere(allowed > 0)
    (top, left), (bottom, right) = painted.min(axis=0), painted.max(axis=0)
    assert right - left > 2 * (bottom - top) > 0  # a line from left to right
    result = Image.open(io.BytesIO(phone.request.get(studio.url + address).body())).convert("RGB")
    changed = (np.asarray(result) != np.asarray(picture)).any(axis=-1)
    assert changed.any() and not changed[allowed == 0].any()


def test_the_lens_follows_a_finger_and_compare_needs_no_scrolling(phone, finger, upload, picture):
    phone.get_by_role("tab", name="Compare").tap()
    upload(phone, "compare", picture.resize((300, 200)))
    phone.locator("#compare-fit").wait_for(state="attached")
    run = phone.locator("#compare-run").bounding_box()
    assert scrolled(phone) == 0 and run["y"] + run["height"] <= 844
    phone.locator("#compare-run").tap()
    tile = phone.locator("#compare-view .side .tile").nth(1)
    tile.wait_for()
    tile.scroll_into_view_if_needed()
    finger(tile, [(0.3, 0.5), (0.4, 0.5), (0.5, 0.5), (0.7, 0.5)])
    lens = phone.locator("#compare-view .side .lens").nth(1)
    assert lens.evaluate("lens => getComputedStyle(lens).visibility") == "visible"
    place = tile.evaluate("tile => Number(tile.closest('.compare').style.getPropertyValue('--x'))")
    assert place == pytest.approx(70, abs=2)
    assert phone.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
