"""Photographs every tab of the studio, light, dark and on a phone, after one real edit, generation and comparison.

    PYTHONPATH=. python tests/browser/screens.py [--checkpoint DIR] [--output DIR] [--tokenizers rpiae,compact-rae]

`make screens` writes the pictures that docs/studio.md shows: WebP, small enough for the repository.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from app.compare import FIRST
from tests.browser.server import Studio
from tests.chromium import CHROMIUM, FLAGS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "assets" / "checkpoints" / "stickers-256"
OUTPUT = ROOT / "docs" / "screens"
PICTURE = ROOT / "tests" / "fixtures" / "scenes" / "scene_1.png"  # what is compared
TABS = {"edit": "Edit", "generate": "Generate", "compare": "Compare", "history": "History", "models": "Models"}
# What is awaited on each tab before it is photographed.
SHOWN = {
    "edit": "#edit-view .tools",
    "generate": "#generate-view .tools",
    "compare": "#compare-view .tile",
    "history": "#history-list .job-card",
    "models": "#models-panel dl",
}
DESK = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True, "is_mobile": True}
PATIENCE = 300_000  # milliseconds for any one step: the machine may be busy, and random weights are made on the way
PHONE_LENGTH = 2600  # pixels of the page that are kept of a phone's; what is left out is more of the same
SIDE_MOST = 1280  # of a kept picture's width
QUALITY = 72


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--tokenizers", default=",".join(FIRST), help="which are compared, by name")
    options = parser.parse_args()
    if CHROMIUM is None:
        raise SystemExit("Chromium is missing: apt-get install chromium")
    options.output.mkdir(parents=True, exist_ok=True)
    with studio(options.checkpoint) as address, browser() as chromium:
        state = work(chromium, address, options.tokenizers.split(","))
        sizes = {}
        for look, settings in looks(state).items():
            for tab, picture in photographs(chromium, address, settings).items():
                path = options.output / f"{tab}-{look}.webp"
                sizes[path.name] = keep(picture, path)
    for name, size in sizes.items():
        print(f"{size / 1024:6.0f} KiB  {name}")
    print(f"{sum(sizes.values()) / 1024:6.0f} KiB in {options.output}")


@contextmanager
def studio(checkpoint: Path) -> Iterator[str]:
    """A server of its own on the checkpoint, as the browser tests start it."""
    with tempfile.TemporaryDirectory() as folder:
        running = Studio(checkpoint, Path(folder))
        running.start()
        try:
            yield running.url
        finally:
            running.stop()


@contextmanager
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


def looks(state: dict) -> dict[str, dict]:
    """The three ways in which the page is seen; `state` is what the browser remembers of its work."""
    return {
        "light": DESK | {"storage_state": state, "color_scheme": "light"},
        "dark": DESK | {"storage_state": state, "color_scheme": "dark"},
        "phone": PHONE | {"storage_state": state, "color_scheme": "light"},
    }


def work(chromium: Browser, address: str, tokenizers: list[str]) -> dict:
    """One edit, one generation and one comparison; returns what the browser then remembers."""
    context = chromium.new_context(**DESK)
    page = opened(context, address)
    show(page, "edit")
    page.locator("#edit-examples .example").first.click()
    page.locator("#edit-note .note").wait_for()
    fixed_seed(page, "edit")
    page.locator("#edit-run").click()
    page.locator("#edit-view .tools").wait_for()
    page.locator("#edit-chain .step").nth(1).wait_for()

    show(page, "generate")
    page.locator("#generate-ideas .idea").nth(1).click()
    fixed_seed(page, "generate")
    page.locator("#generate-count input[type=number]").fill("2")
    page.locator("#generate-count input[type=number]").press("Tab")
    page.locator("#generate-run").click()
    page.locator("#generate-view .tools").first.wait_for()

    show(page, "compare")
    page.locator("#compare-picture input[type=file]").set_input_files(PICTURE)
    page.locator("#compare-note .note").wait_for()
    for name in tokenizers:
        page.locator(f'#compare-tokenizers input[name="{name}"]').check()
    page.locator("#compare-run").click()
    page.locator("#compare-view .compare").wait_for()
    state = context.storage_state()
    context.close()
    return state


def photographs(chromium: Browser, address: str, settings: dict) -> dict[str, bytes]:
    """Every tab, as a browser shows it that comes back to its work."""
    context = chromium.new_context(**settings)
    page = opened(context, address)
    found = {}
    for tab, awaited in SHOWN.items():
        show(page, tab)
        page.locator(awaited).first.wait_for()
        page.wait_for_function("[...document.images].every((image) => !image.checkVisibility() || image.complete)")
        page.mouse.move(0, 0)
        page.evaluate("document.activeElement?.blur(); scrollTo(0, 0)")
        page.wait_for_timeout(400)  # colours and folds that change slowly
        found[tab] = page.screenshot(full_page=True, animations="disabled")
    context.close()
    return found


def opened(context, address: str) -> Page:
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(address)
    page.locator("#model", has_text="float32").wait_for()
    page.wait_for_function("document.querySelector('#edit-seed input')?.value")
    return page


def show(page: Page, tab: str) -> None:
    page.get_by_role("tab", name=TABS[tab], exact=True).click()
    page.locator(f'[role="tab"][data-tab-id="{tab}"][aria-selected="true"]').wait_for()


def fixed_seed(page: Page, tab: str) -> None:
    """The same pictures each time that the command runs."""
    page.locator(f"#{tab}-fresh input").uncheck()
    page.locator(f"#{tab}-seed input").fill("7")


def keep(picture: bytes, path: Path) -> int:
    """Writes a photograph as WebP; returns its bytes. A phone's page is cut where it goes on with more of the same."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    phone = path.stem.endswith("-phone")
    if phone:
        scale = PHONE["device_scale_factor"]
        image = image.crop((0, 0, image.width, min(image.height, PHONE_LENGTH * scale)))
        image = image.resize((image.width * 3 // 4, image.height * 3 // 4), Image.Resampling.LANCZOS)
    image.thumbnail((SIDE_MOST, 10**5), Image.Resampling.LANCZOS)
    image.save(path, "WEBP", quality=QUALITY, method=6)
    return path.stat().st_size


if __name__ == "__main__":
    main()
