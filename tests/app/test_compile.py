"""Compiled steps in the studio: nobody's first request waits for them, and every recipe says that they were there.

Only this thread compiles: torch 2.10 does not survive a second one, and a test process has many workers. The studio
has one.
"""

import time
from functools import partial

import pytest

from app.jobs import Jobs
from app.request import GenerateRequest
from app.service import Service
from app.store import Store
from rpiae.compiled import compile_steps


@pytest.fixture
def wanting(studio_checkpoint):
    """A service that is to compile its steps."""
    return Service(studio_checkpoint, compiled=True)


def attention_of(service: Service, words: str) -> str:
    """What the recipe of a picture says of attention."""
    [picture] = service.run(GenerateRequest(words, num_inference_steps=1)).pictures
    return picture.recipe.attention


def test_recipes_and_facts_say_whether_steps_are_compiled(wanting, monkeypatch):
    monkeypatch.setattr("rpiae.pipeline.compile_steps", partial(compile_steps, backend="aot_eager"))
    wanting.settle()  # nothing is loaded yet
    assert "compiled" not in attention_of(wanting, "a cat") + wanting.facts.attention
    wanting.settle()
    assert "compiled" in wanting.facts.attention
    assert attention_of(wanting, "a dog") == wanting.facts.attention


def test_where_compiling_fails_the_studio_goes_on_without(wanting, monkeypatch, caplog):
    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr("rpiae.pipeline.compile_steps", partial(compile_steps, backend=broken))
    wanting.load()
    wanting.settle()
    assert not wanting.compiled and "no compiler here" in caplog.text
    assert "compiled" not in attention_of(wanting, "a dog") + wanting.facts.attention


def test_the_worker_settles_when_it_has_answered_and_nobody_waits(service, tmp_path, monkeypatch):
    jobs, found = Jobs(service, Store(tmp_path)), []
    ids = [jobs.submit(GenerateRequest("a cat", num_inference_steps=1)) for _ in range(2)]
    monkeypatch.setattr(service, "settle", lambda: found.append([jobs.snapshot(i).record.state for i in ids]))
    jobs.start()
    deadline = time.monotonic() + 120
    while not found:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    jobs.close()
    assert found == [["done", "done"]]
