"""Edits of edits: each step knows its parent, begins with just its pixels, and only its owner can walk the chain."""

import uuid

import pytest
from PIL import Image

from app.chain import SOURCE, begins_with, chain, file_at, merged, origin, place_at
from app.jobs import Jobs
from app.outcome import Outcome, Picture
from app.request import EditRequest, GenerateRequest
from app.store import Record, Store
from rpiae.recipe import Recipe, pixels_sha256


@pytest.fixture
def jobs(tmp_path):
    return Jobs(None, Store(tmp_path))  # nothing is run here: the jobs are written as a server would leave them


def colour(shade: int) -> Image.Image:
    return Image.new("RGB", (40, 30), (shade, 0, 0))


def edit(jobs: Jobs, source: Image.Image, words: str, parent=("", 0), owner="anna", shades=(1,)) -> str:
    request = EditRequest(source, words, seed=1, parent=parent[0], parent_picture=parent[1])
    record = jobs.store.begin(Record(id=str(uuid.uuid4()), owner=owner, request=request.to_json()), source)
    recipe = Recipe(kind="edit", prompt=words, source_sha256=pixels_sha256(source))
    pictures = tuple(Picture(colour(shade), shade, recipe) for shade in shades)
    return jobs.store.finish(record, Outcome(pictures)).id


def test_a_chain_goes_from_the_original_to_the_last_picture(jobs):
    first = edit(jobs, colour(0), "make it blue", shades=(1, 2))
    second = edit(jobs, colour(2), "add a tree", (first, 1), shades=(3,))
    third = edit(jobs, colour(3), "make it night.", (second, 0), shades=(4, 5))
    steps = chain(jobs, third, 1, "anna")
    assert [(step.record.id, step.index) for step in steps] == [(first, 1), (second, 0), (third, 1)]
    shades = [Image.open(file_at(jobs, steps, at)).getpixel((0, 0))[0] for at in range(4)]
    assert shades == [0, 2, 3, 5]
    assert file_at(jobs, steps, 4) is None and file_at(jobs, (), 0) is None
    assert [place_at(steps, at) for at in range(4)] == [(first, SOURCE), (first, 1), (second, 0), (third, 1)]
    assert [origin(step.record) for step in steps] == [(first, SOURCE), (first, 1), (second, 0)]
    assert merged(steps) == "make it blue; add a tree; make it night"


def test_each_step_begins_with_just_the_pixels_of_the_one_before(jobs):
    first = edit(jobs, colour(0), "make it blue", shades=(1, 2))
    steps = chain(jobs, first, 1, "anna")
    assert begins_with(file_at(jobs, steps, 1), colour(2))
    assert not begins_with(file_at(jobs, steps, 1), colour(1))
    assert not begins_with(file_at(jobs, steps, 1), colour(2).resize((20, 15)))
    assert not begins_with(None, colour(2))
    assert not begins_with(jobs.store.folder / first / "job.json", colour(2))


def test_a_chain_ends_where_a_step_is_gone_or_another_persons(jobs):
    first = edit(jobs, colour(0), "one")
    second = edit(jobs, colour(1), "two", (first, 0))
    third = edit(jobs, colour(1), "three", (second, 0))
    assert chain(jobs, third, 0, "ben") == chain(jobs, third, 0, "") == ()
    assert jobs.delete(second, "anna")
    assert [step.record.id for step in chain(jobs, third, 0, "anna")] == [third]
    foreign = edit(jobs, colour(1), "four", (first, 0), owner="ben")
    assert [step.record.id for step in chain(jobs, foreign, 0, "ben")] == [foreign]


def test_a_failed_edit_leaves_the_chain_that_it_would_have_gone_on(jobs):
    first = edit(jobs, colour(0), "one")
    request = EditRequest(colour(1), "two", parent=first)
    record = jobs.store.begin(Record(id=str(uuid.uuid4()), owner="anna", request=request.to_json()), colour(1))
    failed = jobs.store.close(record, "failed", "no memory")
    assert [step.record.id for step in chain(jobs, failed.id, 0, "anna")] == [first]


def test_what_a_browser_may_have_made_up_is_no_chain(jobs):
    drawn = GenerateRequest("a cat").to_json()
    record = jobs.store.begin(Record(id=str(uuid.uuid4()), owner="anna", request=drawn), None)
    jobs.store.finish(record, Outcome((Picture(colour(9), 9, None),)))
    assert chain(jobs, record.id, 0, "anna") == chain(jobs, "../x", 0, "anna") == ()
    first = edit(jobs, colour(0), "one")
    assert [step.index for step in chain(jobs, first, 99, "anna")] == [0]
    round_trip = edit(jobs, colour(1), "two", (first, 0))
    plain = jobs.store.load(first).request | {"parent": round_trip}
    jobs.store.save(Record(**{**vars(jobs.store.load(first)), "request": plain}))  # a circle, by hand
    assert len(chain(jobs, round_trip, 0, "anna")) == 2
