"""Edits of edits: going on, back, branching and beginning again, and all of it still there after a reload."""

import json

import numpy as np
from PIL import Image


def run(page, words: str, steps: int) -> None:
    """Runs an edit and returns when the strip has so many steps."""
    page.locator("#edit-prompt textarea").fill(words)
    page.locator("#edit-run").click()
    page.locator("#edit-chain .step").nth(steps).wait_for()


def in_form(page, place: int) -> None:
    """Waits until the form holds the picture at a place of the strip."""
    page.locator("#edit-chain li").nth(place).locator(".from").wait_for()


def begin(page, upload, picture) -> None:
    upload(page, "edit", picture)
    page.locator("#edit-fresh input").uncheck()  # an untrained model changes nothing with some seeds
    page.locator("#edit-seed input").fill("11")
    run(page, "make the car blue", 1)


def records(studio) -> list[dict]:
    """The jobs on the server's disk, oldest first."""
    found = [json.loads(path.read_text()) for path in studio.outputs.glob("*/job.json")]
    return sorted(found, key=lambda record: record["created"])


def test_a_result_is_edited_further_without_loss(page, studio, upload, picture):
    begin(page, upload, picture)
    in_form(page, 0)
    page.get_by_role("button", name="Go on from this").click()
    in_form(page, 1)
    run(page, "add a tree", 2)
    assert page.locator("#edit-chain [aria-current]").inner_text() == "Edit 2"
    first, second = records(studio)[-2:]
    assert (second["request"]["parent"], second["request"]["parent_picture"]) == (first["id"], 0)
    result = Image.open(studio.outputs / first["id"] / first["pictures"][0]["file"])
    source = Image.open(studio.outputs / second["id"] / "source.png")
    assert (np.asarray(result) == np.asarray(source)).all()
    assert first["pictures"][0]["recipe"]["source_sha256"] != second["pictures"][0]["recipe"]["source_sha256"]


def test_back_branch_and_restart_and_a_reload(page, studio, open_studio, upload, picture):
    begin(page, upload, picture)
    for steps, words in ((2, "add a tree"), (3, "make it night"), (4, "remove the dog")):
        page.get_by_role("button", name="Go on from this").click()
        in_form(page, steps - 1)
        run(page, words, steps)
    assert "4 edits in a row" in page.locator("#edit-chain .hint").inner_text()

    page.get_by_role("button", name="Show Edit 2").click()
    page.locator("#edit-chain [aria-current]", has_text="Edit 2").wait_for()
    page.get_by_role("button", name="Branch from here").click()
    in_form(page, 2)
    page.get_by_role("button", name="Back", exact=True).click()
    in_form(page, 1)

    open_studio(page)
    in_form(page, 1)
    assert page.locator("#edit-chain .step").count() == 5
    run(page, "make it snow", 2)  # a branch after the first step: a strip of its own
    page.wait_for_function("document.querySelectorAll('#edit-chain .step').length === 3")
    kept = records(studio)
    assert kept[-1]["request"]["parent"] == kept[-5]["id"]  # the first of the four, across the reload

    page.get_by_role("button", name="Restart from original").click()
    in_form(page, 0)
    assert page.locator("#edit-view .stage img").get_attribute("alt") == "Original"
    run(page, "make it rain", 1)
    page.wait_for_function("document.querySelectorAll('#edit-chain .step').length === 2")
    assert records(studio)[-1]["request"]["parent"] == ""


def test_many_edits_are_merged_into_one_instruction(page, upload, picture):
    begin(page, upload, picture)
    for steps in (2, 3, 4):
        page.get_by_role("button", name="Go on from this").click()
        in_form(page, steps - 1)
        run(page, f"change {steps}", steps)
    page.get_by_role("button", name="Merge into one instruction").click()
    in_form(page, 0)
    words = "make the car blue; change 2; change 3; change 4"
    page.wait_for_function(f"document.querySelector('#edit-prompt textarea').value === '{words}'")


def test_a_new_picture_is_no_step_of_the_old_chain(page, studio, upload, picture):
    begin(page, upload, picture)
    page.get_by_role("button", name="Go on from this").click()
    in_form(page, 1)
    upload(page, "edit", picture.transpose(Image.Transpose.ROTATE_180), "other.png")
    page.locator("#edit-chain .from").wait_for(state="detached")
    page.locator("#edit-prompt textarea").fill("add a tree")
    page.locator("#edit-run").click()
    page.wait_for_function("document.querySelectorAll('#edit-chain .step').length === 2 && "
                           "document.querySelector('#edit-view img.after')?.alt.endsWith('add a tree')")  # fmt: skip
    assert records(studio)[-1]["request"]["parent"] == ""


def test_what_was_set_in_one_result_is_not_set_in_the_next(page, upload, picture):
    begin(page, upload, picture)
    page.get_by_role("button", name="Go on from this").click()
    in_form(page, 1)
    run(page, "add a tree", 2)
    page.locator("#edit-view label", has_text="After").click()
    page.get_by_role("button", name="Show Edit 1").click()
    page.locator('#edit-view img.after[alt="Result: make the car blue"]').wait_for()
    assert page.locator("#edit-view .modes input:checked").input_value() == "split"


def test_an_edit_makes_several_pictures_each_with_its_seed(page, studio, upload, picture):
    upload(page, "edit", picture)
    page.locator("#edit-prompt textarea").fill("make the car blue")
    page.locator("#edit-fresh input").uncheck()
    page.locator("#edit-seed input").fill("11")
    page.locator("#edit-count input[type=number]").fill("2")
    page.locator("#edit-count input[type=number]").press("Tab")
    page.locator("#edit-run").click()
    page.locator("#edit-view .tools").nth(1).wait_for()
    assert page.locator("#edit-view .seed").all_inner_texts() == ["Seed 11", "Seed 12"]
    page.locator("#edit-chain .step").nth(1).wait_for()
    page.get_by_role("button", name="Go on from this").nth(1).click()
    in_form(page, 1)
    run(page, "add a tree", 2)
    first, second = records(studio)[-2:]
    assert (second["request"]["parent"], second["request"]["parent_picture"]) == (first["id"], 1)
