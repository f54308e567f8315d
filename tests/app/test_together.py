"""Several requests in one batch: the same pictures as one by one, and each still a job of its own."""

import numpy as np
import pytest
import torch
from PIL import Image

from app.follower import Follower
from app.jobs import Jobs
from app.outcome import Progress
from app.request import EditRequest, GenerateRequest, ReconstructRequest
from app.service import Service
from app.store import Store
from rpiae import precision
from rpiae.recipe import read
from tests.app.helpers import end_of, wait_for_step

LONG = 24  # steps


@pytest.fixture(scope="module")
def several(studio_checkpoint):
    """A service that answers up to four pictures at once, as one does on a GPU."""
    loaded = Service(studio_checkpoint, together=4)
    loaded.load()
    return loaded


@pytest.mark.parametrize(("together", "dtype"), [(1, "bfloat16"), (4, "float32")])
def test_a_small_model_whose_requests_share_batches_stays_in_float32(together, dtype, studio_checkpoint, monkeypatch):
    """In bfloat16 a picture would not be the same alone and with others."""
    monkeypatch.setattr(precision, "fast_dtype", lambda device: torch.bfloat16)
    service = Service(studio_checkpoint, together=together, dtype="auto", warm=False)
    service.load()
    assert service.facts.dtype.split()[0] == dtype


@pytest.fixture
def jobs(several, tmp_path):
    """A queue whose worker does not begin before a test starts it: all that is asked until then waits together."""
    waiting = Jobs(several, Store(tmp_path))
    yield waiting
    waiting.close()


@pytest.fixture
def batches(several, monkeypatch):
    """The sizes of the batches that are drawn."""
    sizes, draw = [], several.draw
    monkeypatch.setattr(several, "draw", lambda asked: sizes.append(len(asked)) or draw(asked))
    return sizes


def picture_of(jobs: Jobs, record, index: int = 0) -> Image.Image:
    return Image.open(jobs.store.file(record.id, record.pictures[index]["file"])).convert("RGB")


def alike(one: Image.Image, other: Image.Image) -> bool:
    """At least 99.9 % of the pixels within one grey level."""
    difference = np.abs(np.asarray(one).astype(int) - np.asarray(other)).max(-1)
    return (difference <= 1).mean() >= 0.999


def test_requests_of_equal_settings_share_a_batch_and_come_out_as_by_themselves(jobs, several, batches, picture):
    mask = Image.new("L", (120, 90), 0)
    mask.paste(255, (0, 0, 60, 90))
    edits = [
        EditRequest(picture, "make it blue", seed=5),
        EditRequest(picture.resize((120, 90)), "remove the dog", seed=6, mask=mask, num_inference_steps=4),
        EditRequest(picture, "add a tree", seed=7, count=2),
    ]
    other = EditRequest(picture, "make it red", seed=8, guidance_scale=3.0)
    ids = [jobs.submit(request) for request in (edits[0], other, *edits[1:])]
    jobs.start()
    records = [end_of(jobs, job_id) for job_id in ids]
    assert [record.state for record in records] == ["done"] * 4
    assert batches == [3]  # 4 steps are the checkpoint's own; another guidance is another batch
    for request, record in zip(edits, (records[0], *records[2:]), strict=True):
        assert len(record.pictures) == request.count and record.request["prompt"] == request.prompt
        assert picture_of(jobs, record).size == request.source.size
        for index, alone in enumerate(several.run(request).pictures):
            assert alike(picture_of(jobs, record, index), alone.image)
        recipe = read(jobs.store.file(record.id, record.pictures[0]["file"]))
        assert (recipe.seed, recipe.prompt) == (request.seed, request.prompt)
    assert not alike(picture_of(jobs, records[0]), picture_of(jobs, records[3]))  # so exchanged rows would be seen


def test_stopping_one_leaves_the_others(jobs, several, batches, slow_steps):
    requests = [GenerateRequest(f"a cat {seed}", seed=seed, num_inference_steps=LONG) for seed in (1, 2)]
    first, second = (jobs.submit(request) for request in requests)
    jobs.start()
    for job_id in (first, second):  # both are told of their steps
        wait_for_step(jobs, job_id, 3)
    at = jobs.snapshot(first).step
    assert jobs.stop(first)
    stopped, done = end_of(jobs, first), end_of(jobs, second)
    assert batches == [2]
    assert stopped.state == "stopped" and at <= stopped.stopped_at < LONG and stopped.pictures[0]["partial"]
    assert done.state == "done" and not done.pictures[0]["partial"]
    assert alike(picture_of(jobs, done), several.run(requests[1]).pictures[0].image)


def test_a_mistake_in_one_is_told_to_that_one_alone(jobs, batches):
    good = jobs.submit(GenerateRequest("a cat"))
    bad = jobs.submit(GenerateRequest("cat " * 200))
    jobs.start()
    assert end_of(jobs, bad).state == "failed"
    assert end_of(jobs, good).state == "done"
    assert batches == [2]


def test_a_batch_holds_no_more_pictures_than_it_may_and_passes_no_errand(jobs, batches):
    order = []
    ids = [jobs.submit(GenerateRequest("a cat", seed=seed, num_inference_steps=1)) for seed in range(5)]
    jobs.errand(lambda: order.append([jobs.snapshot(job_id).record.state for job_id in (*ids, late)]))
    late = jobs.submit(GenerateRequest("a cat", num_inference_steps=1))
    jobs.start()
    assert end_of(jobs, late).state == "done"
    assert batches == [4]  # the fifth is alone, and so is the one that came after the errand
    assert order == [["done"] * 5 + ["queued"]]


def test_after_a_batch_that_did_not_fit_smaller_ones_are_drawn(jobs, several, batches, monkeypatch):
    def draw(asked):
        batches.append(len(asked))
        raise MemoryError

    monkeypatch.setattr(several, "_draw", lambda asked: draw(asked) if len(asked) > 1 else real(asked))
    real = Service._draw.__get__(several)
    batches.clear()
    ids = [jobs.submit(GenerateRequest("a cat", seed=seed, num_inference_steps=1)) for seed in range(4)]
    jobs.start()
    assert {end_of(jobs, job_id).state for job_id in ids} == {"done"}
    assert several.together == 2
    several.free()  # another checkpoint may be smaller
    several.load()
    assert several.together == 4


def test_only_drawing_is_done_together_and_on_a_cpu_only_when_asked_for(several, studio_checkpoint, picture):
    assert Service(studio_checkpoint, device="cpu").together == 1
    assert several.batch_key(ReconstructRequest(picture)) is None
    drawn = several.batch_key(GenerateRequest("a cat"))
    assert drawn == several.batch_key(GenerateRequest("a dog", seed=3, guidance_scale=2.0))
    for other in (GenerateRequest("a cat", negative_prompt="dogs"), EditRequest(picture, "a cat")):
        assert several.batch_key(other) != drawn
    with pytest.raises(ValueError, match="--together"):
        Service("anywhere", together=0)


def test_a_stopped_share_ends_as_it_was_and_the_last_one_ends_the_batch(several):
    pipe, lines = several._held.pipeline, [Progress(), Progress()]
    pipe._interrupt = False
    follower = Follower(10, [(lines[0], 1), (lines[1], 2)])
    lines[0].stop.set()
    first = follower(pipe, 0, None, {"latents": torch.zeros(3, 1), "prediction": torch.ones(3, 1)})
    assert first["latents"].flatten().tolist() == [1, 0, 0] and not pipe._interrupt
    second = follower(pipe, 1, None, {"latents": torch.full((3, 1), 5.0), "prediction": torch.full((3, 1), 6.0)})
    assert second["latents"].flatten().tolist() == [1, 5, 5]
    lines[1].stop.set()
    third = follower(pipe, 2, None, {"latents": torch.full((3, 1), 7.0), "prediction": torch.full((3, 1), 8.0)})
    assert third["latents"].flatten().tolist() == [1, 8, 8] and pipe._interrupt
    assert [share.stopped_at for share in follower.shares] == [1, 3]
