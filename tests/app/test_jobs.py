"""Jobs: they outlive whoever asked, stop within a step, wait their turn, and are found again."""

import threading
import time
from types import SimpleNamespace

import pytest
from PIL import Image

from app import follower
from app.jobs import Jobs, QueueFull
from app.outcome import Outcome
from app.request import CompareRequest, EditRequest, GenerateRequest
from app.store import Store
from rpiae.recipe import read
from tests.app.helpers import PATIENCE, end_of, wait_for_step

LONG = 60  # steps, each of 0.03 s or more
pytestmark = pytest.mark.usefixtures("slow_steps")


@pytest.fixture
def jobs(service, tmp_path):
    running = Jobs(service, Store(tmp_path), limit=4, limit_per_owner=3).start()
    yield running
    running.close()


def test_a_finished_job_has_its_picture_with_its_recipe(jobs, picture):
    job_id = jobs.submit(EditRequest(picture, "make it blue", seed=2**31 - 1))
    states = [(shot.record.state, shot.step) for shot in jobs.follow(job_id, timeout=PATIENCE)]
    assert states[-1] == ("done", 4)
    assert states == sorted(states, key=lambda state: (("queued", "running", "done").index(state[0]), state[1]))
    record = jobs.snapshot(job_id).record
    [found] = record.pictures
    path = jobs.store.file(job_id, found["file"])
    assert path.name == f"rpiae_{job_id[:8]}_seed2147483647.png"
    recipe = read(path)
    assert recipe.seed == 2**31 - 1 and recipe.prompt == "make it blue"
    assert Image.open(path).size == picture.size
    assert Jobs(jobs.service, Store(jobs.store.folder)).snapshot(job_id).record == record  # another server


def test_previews_are_small_pictures_without_files(jobs, monkeypatch):
    monkeypatch.setattr(follower, "PREVIEW_EVERY", 0.0)
    job_id = jobs.submit(GenerateRequest("a cat", num_inference_steps=20))
    previews = {shot.preview for shot in jobs.follow(job_id, timeout=PATIENCE)} - {""}
    assert len(previews) >= 2 and all(uri.startswith("data:image/jpeg;base64,") for uri in previews)
    assert max(map(len, previews)) < 60_000
    files = sorted(path.name for path in (jobs.store.folder / job_id).iterdir())
    assert files == sorted(["job.json", jobs.snapshot(job_id).record.pictures[0]["file"]])


def test_a_stop_ends_the_job_and_only_then_the_next_begins(jobs):
    first = jobs.submit(GenerateRequest("a cat", num_inference_steps=LONG))
    second = jobs.submit(GenerateRequest("a dog"))
    wait_for_step(jobs, first, 3)
    at = jobs.snapshot(first).step
    assert jobs.stop(first)
    assert jobs.snapshot(second).record.state == "queued"
    stopped = end_of(jobs, first)
    assert stopped.state == "stopped"
    assert at <= stopped.stopped_at < LONG
    assert stopped.pictures[0]["partial"]
    done = end_of(jobs, second)
    assert done.state == "done"
    assert done.started >= stopped.started + stopped.seconds
    assert not jobs.stop(first)


def test_a_waiting_job_knows_its_place_and_leaves_at_once_when_stopped(jobs):
    first = jobs.submit(GenerateRequest("a cat", num_inference_steps=LONG))
    second, third = (jobs.submit(GenerateRequest("a dog")) for _ in range(2))
    wait_for_step(jobs, first, 1)
    assert [jobs.snapshot(job).ahead for job in (first, second, third)] == [0, 1, 2]
    jobs.stop(second)
    assert jobs.snapshot(second).record.state == "stopped"
    assert jobs.snapshot(third).ahead == 1
    jobs.stop(first)
    assert end_of(jobs, third).state == "done"


def test_the_time_that_is_left_is_told_by_the_steps_or_by_what_jobs_of_the_kind_took(service, tmp_path, monkeypatch):
    jobs, now = Jobs(service, Store(tmp_path)), 100.0  # the worker does not begin
    monkeypatch.setattr("app.jobs.time", SimpleNamespace(monotonic=lambda: now, time=time.time))
    ids = [jobs.submit(GenerateRequest("a cat")) for _ in range(3)]
    assert [jobs.snapshot(job_id).eta for job_id in ids] == [None] * 3
    jobs._usual["generate"] = 2.0
    assert [jobs.snapshot(job_id).eta for job_id in ids] == [None, 2.0, 4.0]
    report, left = jobs._reporter(jobs._jobs[ids[0]]), []
    for step in (1, 2, 3):
        report(step, 10, None)
        left.append(jobs.snapshot(ids[0]).eta)
        now += 1.5
    assert left == [None, 8 * 1.5, 7 * 1.5]
    jobs.stop(ids[0])
    assert jobs.snapshot(ids[0]).eta is None


def test_the_queue_has_a_cap_for_all_and_for_each_owner(jobs):
    first = jobs.submit(GenerateRequest("a cat", num_inference_steps=LONG), "anna")
    others = [jobs.submit(GenerateRequest("a cat"), "anna") for _ in range(2)]
    with pytest.raises(QueueFull, match="3 jobs waiting"):
        jobs.submit(GenerateRequest("a cat"), "anna")
    others.append(jobs.submit(GenerateRequest("a cat"), "ben"))
    with pytest.raises(QueueFull, match="queue is full"):
        jobs.submit(GenerateRequest("a cat"), "carla")
    for job_id in (first, *others):
        jobs.stop(job_id)
        end_of(jobs, job_id)
    assert end_of(jobs, jobs.submit(GenerateRequest("a cat"), "anna")).state == "done"


HALF = "\ud83d"  # of a character: no file can hold it


def test_what_cannot_be_written_down_keeps_no_place_and_no_folder(service, tmp_path, picture):
    jobs = Jobs(service, Store(tmp_path), limit=1)
    for request, owner in (
        (CompareRequest(picture, (HALF,)), "anna"),
        (GenerateRequest("a cat"), HALF),
        (GenerateRequest("a cat"), "x" * 1000),
        (GenerateRequest("a cat"), ["anna"]),
    ):
        with pytest.raises(ValueError) as refused:
            jobs.submit(request, owner)
        assert str(refused.value).endswith(".") and "codec" not in str(refused.value)
        assert list(tmp_path.iterdir()) == []
    assert jobs.submit(GenerateRequest("a cat"), "anna")


def test_one_address_has_half_of_the_places_where_others_come_from_elsewhere(service, tmp_path, monkeypatch):
    monkeypatch.setattr(service, "allow_paths", False)  # as on a server that others reach
    jobs = Jobs(service, Store(tmp_path), limit=8, limit_per_address=2)
    first, _ = (jobs.submit(GenerateRequest("a cat"), owner, "203.0.113.5") for owner in ("", "anna"))
    with pytest.raises(QueueFull, match="2 jobs from your address"):
        jobs.submit(GenerateRequest("a cat"), "ben", "203.0.113.5")
    jobs.submit(GenerateRequest("a cat"), "ben", "203.0.113.6")
    jobs.stop(first)
    jobs.submit(GenerateRequest("a cat"), "ben", "203.0.113.5")
    monkeypatch.setattr(service, "allow_paths", True)  # one's own server
    jobs.submit(GenerateRequest("a cat"), "ben", "203.0.113.5")
    assert not any("203.0" in path.read_text() for path in tmp_path.rglob("job.json"))


def test_the_pictures_that_wait_in_memory_have_a_cap(service, tmp_path, picture):
    mask = Image.new("L", picture.size, 255)
    jobs = Jobs(service, Store(tmp_path), limit_pixels=5 * 256 * 256)
    first = jobs.submit(EditRequest(picture, "make it blue", mask=mask))
    jobs.submit(EditRequest(picture, "make it blue", mask=mask))
    with pytest.raises(QueueFull, match="queue is full.*large"):
        jobs.submit(EditRequest(picture, "make it blue", mask=mask))
    jobs.submit(GenerateRequest("a cat"))
    jobs.stop(first)
    jobs.submit(EditRequest(picture, "make it blue", mask=mask))
    alone = Jobs(service, Store(tmp_path), limit_pixels=1)
    assert alone.submit(EditRequest(picture, "make it blue"))


def test_a_fault_is_a_sentence_and_the_worker_goes_on(service, tmp_path, picture):
    class Faulty:
        """The service, with a fault that nobody has foreseen."""

        state, together = "ready", 1
        load = settle = staticmethod(lambda: None)

        @staticmethod
        def run(request, progress):
            if request.prompt == "a fault":
                raise RuntimeError("tensor 3 at /srv/secret")
            return service.run(request, progress)

    jobs = Jobs(Faulty(), Store(tmp_path)).start()
    bad, good = jobs.submit(GenerateRequest("a fault")), jobs.submit(GenerateRequest("a cat"))
    failed = end_of(jobs, bad)
    assert failed.state == "failed" and "Something went wrong" in failed.message and "/srv" not in failed.message
    assert end_of(jobs, good).state == "done"
    jobs.close()


def test_the_worker_outlives_faults_of_its_own(tmp_path, monkeypatch):
    def fault(*values, **named):
        raise RuntimeError("not foreseen")

    class Faulty:
        """Answers, and fails at all else."""

        state, together = "waiting", 2
        load = settle = batch_key = staticmethod(fault)
        run = staticmethod(lambda request, progress: Outcome())

    jobs = Jobs(Faulty(), Store(tmp_path), limit=1).start()
    monkeypatch.setattr(jobs.store, "tend", fault)
    assert end_of(jobs, jobs.submit(GenerateRequest("a cat"))).state == "done"
    jobs.errand(fault)
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "_run", fault)
        failed = end_of(jobs, jobs.submit(GenerateRequest("a cat")))
    assert failed.state == "failed" and "Something went wrong" in failed.message
    assert end_of(jobs, jobs.submit(GenerateRequest("a cat"))).state == "done"
    jobs.close()


def test_a_checkpoint_that_does_not_load_fails_its_jobs_with_the_reason(tmp_path):
    from app.service import Service

    (tmp_path / "empty").mkdir()
    jobs = Jobs(Service(tmp_path / "empty"), Store(tmp_path / "out")).start()
    record = end_of(jobs, jobs.submit(GenerateRequest("a cat")))
    assert record.state == "failed" and "model_index.json" in record.message
    jobs.close()


def test_a_result_removed_by_the_cap_is_gone_and_unfinished_jobs_stay(jobs):
    jobs.store.limit = 1
    first = jobs.submit(GenerateRequest("a cat"))
    second = jobs.submit(GenerateRequest("a dog"))
    end_of(jobs, first)
    assert end_of(jobs, second).state == "done"
    assert jobs.store.file(second, jobs.snapshot(second).record.pictures[0]["file"])


def test_a_job_that_was_swept_is_known_no_longer(service, tmp_path, monkeypatch):
    jobs = Jobs(service, Store(tmp_path))  # the worker does not begin: what waits is stopped
    gone, kept = (jobs.submit(GenerateRequest(words), "anna") for words in ("a cat", "a dog"))
    for job_id in (gone, kept):
        jobs.stop(job_id)
    monkeypatch.setattr(jobs.store, "tend", lambda keep: [gone] if jobs.store.remove(gone) else [])
    jobs._tidy()
    assert jobs.snapshot(gone) is None and [shot.record.id for shot in jobs.mine("anna")] == [kept]


def test_closing_ends_the_running_job_and_the_others_are_interrupted(service, tmp_path):
    jobs = Jobs(service, Store(tmp_path)).start()
    first = jobs.submit(GenerateRequest("a cat", num_inference_steps=LONG))
    second = jobs.submit(GenerateRequest("a dog", seed=5))
    wait_for_step(jobs, first, 2)
    jobs.close()
    with pytest.raises(QueueFull, match="shutting down"):
        jobs.submit(GenerateRequest("a cat"))
    after = Jobs(service, Store(tmp_path))
    assert after.snapshot(first).record.state == "stopped"
    interrupted = after.snapshot(second).record
    assert interrupted.state == "interrupted" and interrupted.request["seed"] == 5


def test_many_people_can_follow_one_job_and_none_knows_a_foreign_one(jobs):
    job_id = jobs.submit(GenerateRequest("a cat", num_inference_steps=10))
    ends = []
    threads = [threading.Thread(target=lambda: ends.append(end_of(jobs, job_id))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(ends) == 5 and {record.state for record in ends} == {"done"}
    assert jobs.snapshot("8d1f0e4c-0000-4000-8000-000000000000") is None
    assert list(jobs.follow("nothing", timeout=1)) == []


def test_following_gives_up_after_its_time(jobs):
    job_id = jobs.submit(GenerateRequest("a cat", num_inference_steps=LONG))
    wait_for_step(jobs, job_id, 1)
    shots = list(jobs.follow(job_id, timeout=0.5))
    assert not shots[-1].finished
    jobs.stop(job_id)
