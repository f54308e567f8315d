"""The page as Gradio is told about it: lossless pictures, private events, nothing shared."""

from pathlib import Path

import gradio as gr
import pytest
from PIL import Image
from starlette.testclient import TestClient

import app
from app.jobs import Jobs
from app.outcome import Outcome, Picture
from app.service import Service
from app.store import Record, Store
from app.studio import create_app, routes
from rpiae.recipe import Recipe


@pytest.fixture
def jobs(studio_checkpoint, tmp_path):
    return Jobs(Service(studio_checkpoint), Store(tmp_path))


def test_every_picture_component_is_lossless_and_keeps_the_uploaded_bytes(jobs):
    page = create_app(jobs.service, jobs, Path("nowhere"))
    boxes = [block for block in page.blocks.values() if isinstance(block, gr.Image)]
    assert {box.elem_id for box in boxes} >= {"edit-picture", "edit-mask", "compare-picture", "history-drop"}
    for box in boxes:
        assert (box.format, box.type, box.image_mode) == ("png", "filepath", None)
        assert "share" not in box.buttons
    [editor] = [block for block in page.blocks.values() if isinstance(block, gr.ImageEditor)]
    assert editor.format == "png" and not editor.sources
    assert page.analytics_enabled is False


def test_the_page_leaves_no_files_beside_the_code(jobs):
    create_app(jobs.service, jobs, Path("nowhere"))
    assert list(Path(app.__file__).parent.glob("*.pyi")) == []


def test_what_is_said_of_an_uploaded_recipe_is_announced_and_has_its_buttons(jobs):
    page = create_app(jobs.service, jobs, Path("nowhere"))
    [box] = [block for block in page.blocks.values() if block.elem_id == "edit-restored"]
    assert "'role', 'status'" in box.js_on_load and "data-action" in box.js_on_load


def test_the_chip_names_what_is_loaded_now_on_every_tab_and_after_every_job(jobs):
    page = create_app(jobs.service, jobs, Path("nowhere"))
    ids = {block.elem_id: number for number, block in page.blocks.items() if block.elem_id}
    events = page.config["dependencies"]
    shown = [event for event in events if event["outputs"] == [ids["model"]]]
    tabs = {number for number, block in page.blocks.items() if isinstance(block, gr.Tab)}
    assert {place for event in shown for place, kind in event["targets"] if kind == "select"} == tabs
    first = {event["id"]: event["outputs"][:1] for event in events}
    followed = {number for event in shown for number in first.get(event["trigger_after"], [])}
    assert followed >= {ids[f"{room}-view"] for room in ("edit", "generate", "compare")}


def test_results_are_served_under_their_jobs_and_nothing_else(jobs, tmp_path):
    from starlette.applications import Starlette

    record = Record(id="8d1f0e4c-0000-4000-8000-000000000000", request={"kind": "generate"})
    picture = Picture(Image.new("RGB", (20, 20)), 7, Recipe(kind="generate", prompt="a cat", seed=7))
    record = jobs.store.finish(jobs.store.begin(record, None), Outcome((picture,)))
    asked = TestClient(Starlette(routes=routes(jobs, Path("nowhere"))))
    found = asked.get(f"/results/{record.id}/{record.pictures[0]['file']}")
    assert found.status_code == 200 and found.headers["content-type"] == "image/png"
    for path in (f"{record.id}/job.json", f"{record.id}/other.png", "x/a.png", f"{record.id}/..%2Fjob.json", ""):
        assert asked.get(f"/results/{path}").status_code == 404
    assert asked.get("/examples/anything.png").status_code == 404
