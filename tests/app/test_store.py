"""The output folder: whole or not at all, found again, within its cap, closed to other names."""

import json
import os
import resource
import shutil
import signal
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from app import store as stores
from app.outcome import Outcome, Picture, Row
from app.request import CompareRequest, EditRequest
from app.store import VIEW_SIDE, Record, Store
from app.texts import speaking
from rpiae.recipe import Recipe, read

RECIPE = Recipe(kind="edit", prompt="make it blue", seed=7, width=40, height=30)


@contextmanager
def files_no_larger_than(size: int):
    """A disk that is full, as far as this process can tell: writing past `size` bytes fails."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


def let_time_pass(folder: Path) -> None:
    """Returns once what changes has another time than the folder's last change: clocks of disks are coarse."""
    clock = folder.with_name("clock")
    clock.touch()
    while clock.stat().st_ctime_ns <= folder.stat().st_ctime_ns:
        clock.touch()


def noise(size=(40, 30)) -> Image.Image:
    return Image.frombytes("RGB", size, os.urandom(3 * size[0] * size[1]))


def begun(store: Store, source: Image.Image) -> Record:
    request = EditRequest(source, "make it blue", seed=7)
    return store.begin(Record(id=str(uuid.uuid4()), request=request.to_json(), created=1.0), source)


def finished(store: Store, source: Image.Image) -> Record:
    mask = Image.new("L", source.size, 0)
    mask.paste(255, (0, 0, source.width // 2, source.height))
    return store.finish(begun(store, source), Outcome((Picture(noise(source.size), 7, RECIPE, mask),), seconds=1.5))


def test_a_finished_job_is_found_by_another_server(tmp_path):
    source = noise()
    record = finished(Store(tmp_path), source)
    again = Store(tmp_path).load(record.id)
    assert again == record
    assert again.state == "done" and again.seconds == 1.5
    assert Image.open(tmp_path / record.id / "source.png").tobytes() == source.tobytes()
    [picture] = again.pictures
    assert picture["file"] == f"rpiae_{record.id[:8]}_seed7.png"
    assert (picture["width"], picture["height"], picture["seed"]) == (40, 30, 7)
    assert picture["changed"] == 0.5
    assert read(tmp_path / record.id / picture["file"]) == RECIPE
    assert Image.open(tmp_path / record.id / picture["mask"]).getextrema() == (0, 255)


def test_a_job_that_was_running_is_interrupted_after_a_restart(tmp_path):
    record = begun(Store(tmp_path), noise())
    again = Store(tmp_path).load(record.id)
    assert again.state == "interrupted" and "restarted" in again.reason
    with speaking("zh"):  # whoever has read it before
        assert "重新启动" in again.reason
    assert again.request["prompt"] == "make it blue"


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    store, source = Store(tmp_path), noise((200, 200))
    with files_no_larger_than(5000), pytest.raises(OSError):
        begun(store, source)
    assert list(tmp_path.iterdir()) == []
    record = begun(store, source)
    before = sorted(path.name for path in (tmp_path / record.id).iterdir())
    with files_no_larger_than(5000), pytest.raises(OSError):
        store.finish(record, Outcome((Picture(noise((200, 200)), 7, RECIPE),)))
    assert sorted(path.name for path in (tmp_path / record.id).iterdir()) == before
    with files_no_larger_than(10):
        closed = store.close(record, "failed", "No room.")
    assert closed.state == "failed" and closed.message.startswith("No room.")
    assert json.loads((tmp_path / record.id / "job.json").read_text())["state"] == "queued"  # the old one, whole


def test_large_pictures_get_a_smaller_view_and_small_ones_do_not(tmp_path):
    store = Store(tmp_path)
    large = finished(store, noise((VIEW_SIDE + 100, 50)))
    assert large.source["view"] == "view_source.png"
    assert Image.open(store.file(large.id, large.pictures[0]["view"])).width == VIEW_SIDE
    assert Image.open(store.file(large.id, large.pictures[0]["file"])).size == (VIEW_SIDE + 100, 50)
    assert finished(store, noise()).source["view"] == "source.png"


def test_a_comparison_keeps_its_rows(tmp_path):
    store, source = Store(tmp_path), noise()
    request = CompareRequest(source, ("rpiae", "sd-vae"))
    record = store.begin(Record(id=str(uuid.uuid4()), request=request.to_json()), source)
    rows = (
        Row("rpiae", psnr=float("inf"), latent_shape=(8, 16, 16), reconstruction=source, error_map=source),
        Row("sd-vae", error="no weights"),
    )
    store.finish(record, Outcome(rows=rows, reference=source))
    first, second = Store(tmp_path).load(record.id).rows
    assert first["psnr"] == float("inf") and second["error"] == "no weights"
    assert Image.open(store.file(record.id, first["reconstruction"])).tobytes() == source.tobytes()


def test_only_a_jobs_own_pictures_can_be_asked_for(tmp_path):
    store = Store(tmp_path / "out")
    record = finished(store, noise())
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "out" / record.id / "link.png").symlink_to(tmp_path / "secret.png")
    assert store.file(record.id, record.pictures[0]["file"])
    for name in ("job.json", "../secret.png", "link.png", ".hidden.png", "", "a/b.png", "source.png\n"):
        assert store.file(record.id, name) is None
    for job in ("", "..", "../out", record.id.upper(), record.id[:-1], str(uuid.uuid4()), "a" * 300, None, 7):
        assert store.file(job, "source.png") is None
        assert store.load(job) is None


def test_a_broken_record_is_no_job(tmp_path):
    store = Store(tmp_path)
    record = finished(store, noise())
    for text in ("", "{", "[]", '{"id": 3}'):
        (tmp_path / record.id / "job.json").write_text(text)
        assert store.load(record.id) is None


def test_the_oldest_jobs_go_when_the_folder_is_over_its_cap(tmp_path):
    store = Store(tmp_path)
    records = [finished(store, noise((100, 100))) for _ in range(4)]
    for age, record in enumerate(records):
        os.utime(tmp_path / record.id, (1000 + age, 1000 + age))
    one = store.size() // 4
    store.limit = int(2.5 * one)
    assert store.sweep(keep={records[0].id}) == [records[1].id, records[2].id]
    assert [store.load(record.id) is not None for record in records] == [True, False, False, True]
    assert store.size() <= store.limit


@pytest.fixture
def looks(monkeypatch):
    """How often the whole folder was looked through."""
    seen, real = [], Store._homes
    monkeypatch.setattr(Store, "_homes", lambda store: seen.append(1) or real(store))
    return seen


def test_the_folder_is_swept_at_first_and_when_it_has_grown_over_its_cap(tmp_path, looks):
    finished(Store(tmp_path), noise((100, 100)))
    store = Store(tmp_path)
    store.limit = int(3.5 * store.size())
    looks.clear()
    assert store.tend() == [] and len(looks) == 1
    for _ in range(2):
        finished(store, noise((100, 100)))
        assert store.tend() == [] and len(looks) == 1
    finished(store, noise((100, 100)))
    assert len(store.tend()) == 1 and len(looks) == 2 and store.size() <= store.limit
    assert store.tend() == [] and len(looks) == 3  # of which `size` was one
    shutil.rmtree(tmp_path)  # by hand
    for _ in range(2):
        finished(store, noise((100, 100)))
    assert store.tend() == []


def test_a_sweep_leaves_room_for_the_next_job(tmp_path):
    store = Store(tmp_path)
    one = finished(store, noise((100, 100)))
    for _ in range(3):
        finished(store, noise((100, 100)))
    store.limit = int(3.02 * sum(path.stat().st_size for path in (tmp_path / one.id).iterdir()))
    assert len(store.tend()) == 2
    assert store.sweep() == []


def test_records_are_looked_for_again_only_when_something_has_changed(tmp_path, looks, monkeypatch):
    folder = tmp_path / "out"
    store = Store(folder)
    records = [store.begin(Record(id=str(uuid.uuid4()), owner="anna", request={}), None) for _ in range(3)]
    ids = {record.id for record in records}
    assert {record.id for record in store.records("anna")} == ids
    store.records("anna")
    assert store.records("ben") == [] and len(looks) == 1
    store.close(records[0], "stopped", "")
    assert {record.state for record in store.records("anna")} == {"stopped", "interrupted"} and len(looks) == 2
    store.remove(records[0].id)
    assert {record.id for record in store.records("anna")} == ids - {records[0].id}
    let_time_pass(folder)
    shutil.rmtree(folder / records[1].id)  # by hand
    assert [record.id for record in store.records("anna")] == [records[2].id]
    (folder / records[2].id / "job.json").unlink()  # which the folder does not tell
    monkeypatch.setattr(stores, "TRUSTED", 0.0)
    store._until = 0.0
    assert store.records("anna") == []


def test_an_output_folder_that_cannot_be_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written to"):
        Store(tmp_path / "file")
