"""A browser's own jobs: found, searched, taken along, deleted, in line; never another's."""

import io
import json
import uuid
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from app import cards
from app.chain import Step
from app.comparison import DrawnRow
from app.export import zip_stream
from app.history import PAGE, found
from app.jobs import Jobs, Snapshot
from app.outcome import Outcome, Picture, Row
from app.request import CompareRequest, EditRequest, GenerateRequest
from app.service import Service
from app.store import Record, Store
from app.studio import create_app, routes
from rpiae.recipe import Recipe

EVIL = '<img src=x onerror="alert(1)">'
PICTURE = Image.new("RGB", (40, 30), "red")


@pytest.fixture
def jobs(tmp_path):
    return Jobs(None, Store(tmp_path / "out"))  # nothing is run here: the jobs are written as a server would leave them


def begun(jobs, request, owner="anna", created=1.0, mask=None) -> Record:
    record = Record(id=str(uuid.uuid4()), owner=owner, request=request.to_json(), created=created)
    return jobs.store.begin(record, getattr(request, "source", None), mask)


def drawn(jobs, prompt="a cat", owner="anna", created=1.0, count=1) -> Record:
    recipe = Recipe(kind="generate", prompt=prompt, seed=7)
    pictures = tuple(Picture(PICTURE, 7 + i, recipe) for i in range(count))
    record = begun(jobs, GenerateRequest(prompt, seed=7, count=count), owner, created)
    return jobs.store.finish(record, Outcome(pictures))


def test_a_browser_finds_its_own_jobs_newest_first_and_nobody_elses(jobs):
    old, new = drawn(jobs, "old", created=1), drawn(jobs, "new", created=2)
    drawn(jobs, "foreign", owner="ben")
    drawn(jobs, "nobody's", owner="")
    again = Jobs(None, Store(jobs.store.folder))  # another server
    for server in (jobs, again, again):
        assert [record.id for record in server.history("anna")] == [new.id, old.id]
    assert again.history("carla") == again.history("") == []


def test_a_job_that_was_cut_off_is_in_the_history_with_all_that_repeats_it(jobs):
    mask = Image.new("L", PICTURE.size, 255)
    cut = begun(jobs, EditRequest(PICTURE, "make it blue", seed=7, mask=mask), mask=mask)
    [record] = jobs.history("anna")
    assert (record.id, record.state, record.request["seed"]) == (cut.id, "interrupted", 7)
    assert jobs.store.file(record.id, record.source["file"]) and jobs.store.file(record.id, record.mask)
    page = cards.history([record], 1, 24)
    assert "Interrupted" in page and "restarted before" in page and 'data-action="use"' in page


def test_a_changed_record_is_read_again(jobs):
    record = begun(jobs, GenerateRequest("a cat", seed=7))
    assert jobs.history("anna")[0].state == "interrupted"
    jobs.store.finish(record, Outcome((Picture(PICTURE, 7, None),)))
    assert jobs.history("anna")[0].state == "done"


def test_a_comparison_of_words_alone_can_be_opened(jobs):
    request = CompareRequest(None, ("rpiae", "sd-vae"), prompt="a cat")
    rows = (DrawnRow("rpiae", prompt="a cat", drawn=PICTURE), DrawnRow("sd-vae", error="no weights"))
    drawn = jobs.store.finish(begun(jobs, request), Outcome(rows=rows))
    page = cards.history([drawn], 1, 24)
    assert 'data-action="open"' in page and f'/{drawn.rows[0]["drawn"]}"' in page
    failed = jobs.store.finish(begun(jobs, request), Outcome(rows=rows[1:]))
    page = cards.history([failed], 1, 24)
    assert 'data-action="open"' in page and ">Show</button>" in page


def test_only_its_owner_deletes_a_job_and_the_files_go_with_it(jobs):
    record = drawn(jobs)
    for owner in ("ben", ""):
        assert not jobs.delete(record.id, owner)
    assert (jobs.store.folder / record.id).is_dir()
    assert jobs.delete(record.id, "anna")
    assert not (jobs.store.folder / record.id).exists()
    assert not jobs.delete(record.id, "anna") and not jobs.delete("../out", "anna")


def test_a_job_that_runs_is_not_deleted_nor_in_the_history_but_in_the_list(service, tmp_path):
    jobs = Jobs(service, Store(tmp_path))  # the worker does not begin: all wait
    first, second = (jobs.submit(GenerateRequest(words), "anna") for words in ("a cat", "a dog"))
    jobs.submit(GenerateRequest("a fox"), "ben")
    assert jobs.history("anna") == [] and not jobs.delete(first, "anna")
    assert [shot.record.id for shot in jobs.mine("anna")] == [first, second]
    assert jobs.mine("") == []
    rows = cards.job_rows(jobs.mine("anna"), shown=[first])
    assert "a dog" in rows and "a cat" not in rows and "Place 1 in line" in rows
    jobs.stop(second)
    assert [shot.record.state for shot in jobs.mine("anna")] == ["stopped", "queued"]
    assert [shot.record.id for shot in jobs.mine("anna", recent=-1)] == [first]
    assert jobs.delete(second, "anna")


def test_searching_and_sorting_by_kind(jobs):
    records = [drawn(jobs, "A red Cat"), drawn(jobs, "a dog")]
    compared = begun(jobs, CompareRequest(PICTURE, ("sd-vae",)))
    assert found(records, "cat red", "all") == records[:1]
    assert found(records, "", "generate") == records and found(records, None, "edit") == []
    assert found([compared], "SD-VAE", "compare") == [compared]
    assert found(records, "", "nonsense") == []


def test_the_zip_has_pictures_and_recipes_and_is_sent_in_pieces(jobs):
    record = drawn(jobs, count=2)
    row = Row("rpiae", psnr=30.0, reconstruction=PICTURE, error_map=PICTURE)
    compared = jobs.store.finish(begun(jobs, CompareRequest(PICTURE, ("rpiae",))), Outcome(rows=(row,)))
    blocks = list(zip_stream(jobs.store, [record, record, compared]))
    assert len(blocks) > 3
    archive = zipfile.ZipFile(io.BytesIO(b"".join(blocks)))
    assert archive.testzip() is None
    short = compared.id[:8]
    names = {f"rpiae_{record.id[:8]}_seed{seed}.{end}" for seed in (7, 8) for end in ("png", "json")}
    names |= {f"compare_{short}.json", f"compare_{short}_source.png", f"compare_{short}_rpiae_reconstruction.png"}
    assert set(archive.namelist()) == names
    file = record.pictures[0]["file"]
    assert archive.read(file) == (jobs.store.folder / record.id / file).read_bytes()
    assert json.loads(archive.read(file.replace(".png", ".json")))["prompt"] == "a cat"


def test_the_zips_address_gives_jobs_to_those_who_know_them(jobs):
    record = drawn(jobs)
    asked = TestClient(Starlette(routes=routes(jobs)))
    got = asked.get("/history.zip", params={"jobs": f"{record.id},{uuid.uuid4()},../out"})
    assert got.status_code == 200 and "rpiae_history.zip" in got.headers["content-disposition"]
    assert len(zipfile.ZipFile(io.BytesIO(got.content)).namelist()) == 2
    for bad in ({}, {"jobs": ""}, {"jobs": "../out"}, {"other": record.id}):
        assert asked.get("/history.zip", params=bad).status_code == 404


def test_words_of_people_stay_words(jobs):
    record = drawn(jobs, EVIL)
    edited = EditRequest(PICTURE, EVIL, seed=7)
    done = jobs.store.finish(begun(jobs, edited), Outcome((Picture(PICTURE, 7, None),)))
    pages = [
        cards.history([record], 1, 24),
        cards.job_rows([Snapshot(record)], []),
        cards.chain_strip((Step(done, 0),) * 4, 1),
        cards.restored([EVIL], [("use", EVIL)]),
    ]
    assert not [page for page in pages if "<img src=x" in page]
    assert all("&lt;img src=x" in page for page in pages)


def test_the_strip_marks_the_step_on_show_and_hints_after_four(jobs):
    step = Step(jobs.store.finish(begun(jobs, EditRequest(PICTURE, "one")), Outcome((Picture(PICTURE, 7, None),))), 0)
    three = cards.chain_strip((step,) * 3, 2, 0)
    assert three.count('data-action="step"') == 4 and three.count("aria-current") == 1
    assert 'data-index="2" aria-current' in three and "In the form" in three and "in a row" not in three
    four = cards.chain_strip((step,) * 4, 0)
    assert "4 edits in a row" in four and 'data-action="merge"' in four
    assert 'data-action="back" disabled' in four and "In the form" not in four
    assert cards.chain_strip((), 0) == ""


def test_a_long_history_is_shown_in_parts(jobs):
    records = [drawn(jobs, f"cat {i}") for i in range(3)]
    page = cards.history(records, 3, 2)
    assert page.count('class="job-card"') == 2 and "Show 1 more" in page
    assert "Nothing here yet" in cards.history([], 0, 2) and "fits this search" in cards.history([], 3, 2)
    assert [cards.pages(value, 24) for value in (48, 3, -5, "x", True, None)] == [48, 24, 24, 24, 24, 24]


def test_show_more_adds_a_page_to_the_list(studio_checkpoint, tmp_path):
    jobs = Jobs(Service(studio_checkpoint), Store(tmp_path / "out"))
    for number in range(PAGE + 1):
        drawn(jobs, f"cat {number}")
    page = create_app(jobs.service, jobs, Path("nowhere"))
    [place] = [number for number, part in page.blocks.items() if part.elem_id == "history-list"]
    [clicked] = [event.fn for event in page.fns.values() if (place, "click") in event.targets]
    shown = clicked("anna", "", "all", PAGE, {}, SimpleNamespace(action="more"))
    limit, listed, _ = shown.values()
    assert limit == 2 * PAGE and listed.count('class="job-card"') == PAGE + 1 and 'data-action="more"' not in listed
