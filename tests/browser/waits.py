"""Waiting for what a page comes to, rather than for some time."""

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 60_000  # milliseconds; the machine may be busy with other things
FILLED = "[...document.querySelectorAll('button.run.opening')].every((run) => run.offsetParent === null)"
IDLE = "new Promise((done) => requestIdleCallback(() => requestIdleCallback(done), {timeout: 10000}))"
DRAFT = "localStorage.getItem('rpiae.draft.edit.v1')"  # encrypted, anew each time


def rest(page) -> None:
    """Returns when the form on show is filled and the page is idle: a page just opened fills its forms, and Gradio
    gives a part that was just put on show its values a frame later, over what a test was quick to enter."""
    page.wait_for_function(FILLED)
    page.evaluate(IDLE)


def until(page, met: Callable[[], Any], every: int = 50) -> None:
    """Waits for something that cannot be asked of the page alone; asks each `every` milliseconds."""
    deadline = time.monotonic() + PATIENCE / 1000
    while not met():
        assert time.monotonic() < deadline, "it did not come about"
        page.wait_for_timeout(every)


def steady(page, look: Callable[[], Any]) -> Any:
    """What `look` gives, once it was the same three times, with the page idle in between."""
    seen: list[Any] = []

    def same() -> bool:
        page.evaluate(IDLE)
        seen.append(look())
        return seen[-3:] == [seen[-1]] * 3

    until(page, same, every=250)
    return seen[-1]


def settled(canvas) -> dict[str, float]:
    """Where the editor's canvas is, once it has its picture and has fitted it in."""
    page = canvas.page
    page.locator("#edit-paint button[aria-label=Undo]:enabled").first.wait_for(state="attached")  # it came in
    canvas.scroll_into_view_if_needed()
    steady(page, canvas.screenshot)
    return canvas.bounding_box()


def write(page, words: str) -> None:
    """Types an instruction; returns when the browser keeps all of it, which is a moment later."""
    before = page.evaluate(DRAFT)
    page.locator("#edit-prompt textarea").press_sequentially(words)
    page.wait_for_function(f"before => {DRAFT} != before", arg=before)
    steady(page, lambda: page.evaluate(DRAFT))


def refused(page, run, *words: str) -> None:
    """Presses Run until all the words stand under their fields at once: Gradio takes them away again when an answer to
    something else is on its way."""
    told = page.locator(".validation-error:visible")

    def press() -> None:
        with page.expect_response(lambda got: got.status == 422):
            run.click()

    until(page, lambda: all(told.filter(has_text=one).count() for one in words) or press(), every=500)
