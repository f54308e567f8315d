"""What may happen to a server: killed in the middle, no room on the disk, an output folder that is closed to it.

The disk is a small one of its own where the machine lets a test mount one, else files may not grow; nothing is mocked.
"""

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from anyio.from_thread import start_blocking_portal
from PIL import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from app import settings
from app.follower import Follower
from app.history import HistoryTab
from app.jobs import Jobs
from app.outcome import Outcome, Picture
from app.page import UPLOAD_ROUTE, Door
from app.request import EditRequest, GenerateRequest
from app.store import ABANDONED, Record, Store
from app.studio import routes
from rpiae.recipe import Recipe, pixels_sha256, read
from tests.app.helpers import PATIENCE, end_of, wait_for_step

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534
RECIPE = Recipe(kind="generate", prompt="a cat", seed=7)

SERVER = """
import sys
from PIL import Image
from app.jobs import Jobs
from app.request import EditRequest
from app.service import Service
from app.store import Store

checkpoint, folder, source = sys.argv[1:]
picture = Image.open(source).convert("RGB")
mask = Image.new("L", picture.size, 0)
mask.paste(255, (0, 0, 128, 256))
jobs = Jobs(Service(checkpoint), Store(folder)).start()
done = jobs.submit(EditRequest(picture, "make it blue", seed=1), "anna")
cut = jobs.submit(EditRequest(picture, "make it red", seed=2, mask=mask, num_inference_steps=40), "anna")
waiting = jobs.submit(EditRequest(picture, "make it green", seed=3), "anna")
list(jobs.follow(done))
for shot in jobs.follow(cut):
    if shot.step == 2:
        print(done, cut, waiting, flush=True)
"""

# Servers that do nothing but write; each is killed a little later after its first job than the one before.
WRITERS = r"""
import os, signal, sys, time, uuid
from PIL import Image
import rpiae.recipe
from app.outcome import Outcome, Picture
from app.store import Record, Store

recipe = rpiae.recipe.Recipe(kind="generate", prompt="a cat", seed=7)
pictures = tuple(Picture(Image.effect_noise((500, 500), 80).convert("RGB"), seed, recipe) for seed in (7, 8))
for turn in range(8):
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        store = Store(os.path.join(sys.argv[1], str(turn)))
        while True:
            record = Record(id=str(uuid.uuid4()), request={"kind": "generate"}, owner="anna")
            record = store.begin(record, pictures[0].image)
            store.finish(record, Outcome(pictures))
            os.write(tell, f"{turn} {record.id}\n".encode())  # in one piece, or not at all
    os.close(tell)
    with os.fdopen(told) as lines:
        first = lines.readline()
        time.sleep(0.037 * turn)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        print(first + lines.read(), end="", flush=True)
"""


class Disk:
    """A disk of 2 MB, or (where nothing may be mounted) a limit on the size of files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
        self.own = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
        self.words = os.strerror(errno.ENOSPC if self.own else errno.EFBIG)

    @contextmanager
    def full(self, left: int = 0):
        """No room for more than `left` bytes."""
        if self.own:
            with self._filler(left):
                yield
            return
        old = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (left, old[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
            signal.signal(signal.SIGXFSZ, handler)

    @contextmanager
    def _filler(self, left: int):
        filler = self.folder / "filler"
        size = os.statvfs(self.folder)
        try:
            with filler.open("wb", buffering=0) as stream:
                stream.write(bytes(max(0, size.f_bavail * size.f_frsize - left)))
            yield
        finally:
            filler.unlink()

    def close(self) -> None:
        if self.own:
            subprocess.run(["umount", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path):
    small = Disk(tmp_path / "disk")
    yield small
    small.close()


@contextmanager
def closed(folder: Path):
    """The folder may not be entered; root gives up its rights for that time, which it alone has to."""
    before = stat.S_IMODE(folder.stat().st_mode)
    folder.chmod(0)
    if root := os.geteuid() == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(before)


@pytest.fixture
def go(monkeypatch):
    """Jobs wait after each step until this is set."""
    told, real = threading.Event(), Follower.__call__

    def step(self, *values):
        done = real(self, *values)
        told.wait(PATIENCE)
        return done

    monkeypatch.setattr(Follower, "__call__", step)
    yield told
    told.set()


def noise(side: int) -> Image.Image:
    return Image.frombytes("RGB", (side, side), os.urandom(3 * side * side))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def drawn(store: Store, owner: str = "anna") -> Record:
    record = Record(id=str(uuid.uuid4()), owner=owner, request=GenerateRequest("a cat", seed=7).to_json())
    return store.finish(store.begin(record, None), Outcome((Picture(noise(40), 7, RECIPE),)))


# kill -9


def test_a_killed_server_leaves_its_history_whole_and_the_cut_off_job_ready_to_run(
    service, studio_checkpoint, picture, tmp_path
):
    picture.save(tmp_path / "source.png")
    folder = tmp_path / "outputs"
    command = [sys.executable, "-c", SERVER, str(studio_checkpoint), str(folder), str(tmp_path / "source.png")]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    ids = server.stdout.readline().split()
    server.send_signal(signal.SIGKILL)
    server.wait()
    server.stdout.close()
    assert len(ids) == 3, "the server did not come to the second edit"

    jobs = Jobs(service, Store(folder)).start()
    found = {record.id: record for record in jobs.history("anna")}
    assert [found[job].state for job in ids] == ["done", "interrupted", "interrupted"]
    assert all("restarted" in found[job].reason for job in ids[1:])
    done, cut, waiting = (found[job] for job in ids)
    assert read(folder / done.id / done.pictures[0]["file"]).prompt == "make it blue"
    for path in folder.rglob("*.png"):
        with Image.open(path) as file:
            file.load()
    assert not [name for name in files(folder) if name.endswith(".part")]
    assert waiting.request["seed"] == 3

    # Its form, filled as the page fills it, runs what was cut off.
    asked = settings.from_record(cut, service.defaults)
    assert asked.values["num_inference_steps"] == 40 and asked.notes == ()
    source, allowed = (Image.open(jobs.store.file(cut.id, name)) for name in (cut.source["file"], cut.mask))
    again = end_of(jobs, jobs.submit(EditRequest(source=source, mask=allowed, **asked.values), "anna"))
    recipe = read(folder / again.id / again.pictures[0]["file"])
    assert (recipe.prompt, recipe.seed, recipe.num_inference_steps) == ("make it red", 2, 40)
    assert recipe.source_sha256 == pixels_sha256(picture) and recipe.mask_sha256 == pixels_sha256(allowed)
    jobs.close()


def test_a_server_killed_while_it_writes_leaves_whole_files_or_none(tmp_path):
    told = subprocess.run(
        [sys.executable, "-c", WRITERS, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
    )
    finished = [line.split() for line in told.stdout.splitlines()]
    assert {turn for turn, _ in finished} == set(map(str, range(8))), told.stderr
    cut = 0
    for folder in tmp_path.iterdir():
        store = Store(folder)
        records = store.records("anna")
        assert {job for turn, job in finished if turn == folder.name} <= {
            record.id for record in records if record.state == "done"
        }
        for record in records:
            for picture in record.pictures:
                assert read(folder / record.id / picture["file"]) is not None
        for path in folder.rglob("*.png"):
            with Image.open(path) as file:
                file.load()
        cut += sum(record.state == "interrupted" for record in records)
        # What is not whole has no name that anybody asks for, and goes once it is old.
        whole = {path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".part")}
        for path in [*folder.rglob("*"), *folder.iterdir()]:
            os.utime(path, (time.time() - 2 * ABANDONED,) * 2)
        store.sweep()
        left = {path for path in folder.rglob("*") if path.is_file()}
        named = {path for path in whole if (path.parent / "job.json").exists()}
        assert left == named
    assert cut, "no server was killed between a job's beginning and its end"


def test_half_written_files_are_left_alone_while_they_may_be_another_servers(tmp_path):
    store = Store(tmp_path)
    record = drawn(store)
    part, nothing = tmp_path / record.id / ".x.part", tmp_path / str(uuid.uuid4())
    part.write_bytes(b"half")
    nothing.mkdir()
    store.sweep()
    assert part.exists() and nothing.exists()
    for path in (part, nothing):
        os.utime(path, (1000, 1000))
    store.sweep(keep={record.id})
    assert part.exists() and not nothing.exists()
    store.sweep()
    assert not part.exists() and store.load(record.id) == record


# no room


def test_a_full_disk_refuses_a_job_with_a_sentence_and_keeps_no_place_for_it(service, disk, picture):
    jobs = Jobs(service, Store(disk.folder), limit=1)
    with disk.full(), pytest.raises(ValueError, match="could not be saved") as fault:
        jobs.submit(EditRequest(picture, "make it blue", seed=1), "anna")
    assert disk.words in str(fault.value) and str(disk.folder) not in str(fault.value)
    assert files(disk.folder) == [] and jobs.history("anna") == []
    assert jobs.submit(EditRequest(picture, "make it blue", seed=1), "anna")


def test_a_disk_that_fills_up_meanwhile_fails_the_job_whole_and_the_next_one_works(service, disk, go):
    jobs = Jobs(service, Store(disk.folder)).start()
    before = drawn(jobs.store)
    job = jobs.submit(GenerateRequest("a cat", seed=1, num_inference_steps=20), "anna")
    wait_for_step(jobs, job, 1)
    kept = files(disk.folder)
    with disk.full():
        go.set()
        failed = end_of(jobs, job)
        assert files(disk.folder) == sorted([*kept, *(["filler"] if disk.own else [])])
    assert failed.state == "failed" and disk.words in failed.message and "Make room" in failed.message
    assert {record.state for record in jobs.history("anna")} == {"done", "failed"}
    assert jobs.snapshot(before.id).record == before
    assert end_of(jobs, jobs.submit(GenerateRequest("a dog", seed=1), "anna")).state == "done"
    jobs.close()
    states = {record.id: record.state for record in Store(disk.folder).records("anna")}
    assert states[job] == "interrupted"  # the record on disk is the last one that there was room for


def test_room_for_the_first_of_two_pictures_keeps_neither(disk):
    store = Store(disk.folder)
    request = GenerateRequest("a cat", seed=7, count=2)
    record = store.begin(Record(id=str(uuid.uuid4()), request=request.to_json()), None)
    two = Outcome((Picture(noise(40), 7, RECIPE), Picture(noise(300), 8, RECIPE)))
    with disk.full(left=40_000), pytest.raises(OSError):
        store.finish(record, two)
    assert files(disk.folder) == [f"{record.id}/job.json"]
    assert store.finish(record, two).pictures[1]["seed"] == 8


def test_an_upload_without_room_is_told_and_one_that_cannot_fit_is_not_begun(disk):
    half = disk.folder / "half"

    async def save(request):
        half.write_bytes(await request.body())
        return Response("saved")

    uploads = Route(UPLOAD_ROUTE, save, methods=["POST"])
    page = TestClient(Starlette(routes=[uploads], middleware=[Middleware(Door)]))
    answer = page.post(UPLOAD_ROUTE, content=b"all", headers={"content-length": str(10**18)})
    assert answer.status_code == 507 and "Make room" in answer.text and not half.exists()
    with disk.full():
        answer = page.post(UPLOAD_ROUTE, content=bytes(10_000))
    assert answer.status_code == 507 and disk.words in answer.text and str(disk.folder) not in answer.text
    assert page.post(UPLOAD_ROUTE, content=b"all").text == "saved"


def test_uploads_leave_a_reserve_also_on_the_disk_of_the_outputs(disk):
    if not disk.own:
        pytest.skip("no disk of its own can be mounted here")
    saved = disk.folder / "saved"

    async def save(request):
        with saved.open("wb", buffering=0) as file:
            async for part in request.stream():
                file.write(part)
        return Response("saved")

    async def parts():
        for _ in range(30):
            yield bytes(10_000)

    uploads = Route(UPLOAD_ROUTE, save, methods=["POST"])
    page = Starlette(routes=[uploads], middleware=[Middleware(Door, outputs=disk.folder)])

    async def send(content) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(page), base_url="http://studio") as client:
            return await client.post(UPLOAD_ROUTE, content=content)

    reserve = 2 * 1024**2 // 50
    with start_blocking_portal() as portal:  # in a thread: Playwright's own loop may run in this one
        with disk.full(left=reserve + 8000):
            assert portal.call(send, bytes(3000)).text == "saved"
            saved.unlink()
            answer = portal.call(send, bytes(30_000))  # says its size, so it is not begun
            assert answer.status_code == 507 and "Make room" in answer.text and not saved.exists()
        with disk.full(left=reserve - 8000):
            assert portal.call(send, b"all").status_code == 507 and not saved.exists()
        with disk.full(left=reserve + 100_000):
            answer = portal.call(send, parts())  # does not say it
            assert answer.status_code == 507 and "Make room" in answer.text
            assert os.statvfs(disk.folder).f_bavail * os.statvfs(disk.folder).f_frsize >= reserve - 20_000


# an output folder that is closed


def test_a_folder_that_may_not_be_read_is_refused_before_anything_starts():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if root := os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        folder.chmod(0o300)  # new files can be made, but nobody sees which there are
        if root:
            os.seteuid(NOBODY)
        try:
            with pytest.raises(ValueError, match="cannot be written to and read.*--outputs"):
                Store(folder)
        finally:
            if root:
                os.seteuid(0)
            folder.chmod(0o700)
        assert files(folder) == []


def test_a_folder_that_closes_while_the_server_runs_is_a_sentence_everywhere(service, tmp_path, picture, go):
    jobs = Jobs(service, Store(tmp_path / "outputs")).start()
    folder = jobs.store.folder
    old = drawn(jobs.store)
    page = TestClient(Starlette(routes=routes(jobs)))
    address = f"/results/{old.id}/{old.pictures[0]['file']}"
    running = jobs.submit(GenerateRequest("a cat", seed=1, num_inference_steps=20), "anna")
    wait_for_step(jobs, running, 1)
    whole = files(folder)
    with closed(folder):
        go.set()
        failed = end_of(jobs, running)
        with pytest.raises(ValueError) as refused:
            jobs.submit(EditRequest(picture, "make it blue", seed=1), "anna")
        with pytest.raises(ValueError) as unread:
            jobs.history("anna")
        told = HistoryTab._list(_Tab(jobs), "anna", "", "all", 24)
        assert jobs.snapshot(old.id) is None and not jobs.delete(old.id, "anna")
        assert page.get(address).status_code == page.get(f"/history.zip?jobs={old.id}").status_code == 404
        assert settings.source_record(jobs, "anna", "0" * 64) is None
    for words in (failed.message, str(refused.value), str(unread.value), told):
        assert "cannot be used just now (Permission denied)" in words and str(tmp_path) not in words
    assert 'role="alert"' in told
    assert files(folder) == whole
    assert page.get(address).status_code == 200
    assert {record.id for record in jobs.history("anna")} == {old.id, running}
    assert end_of(jobs, jobs.submit(GenerateRequest("a dog", seed=1), "anna")).state == "done"
    jobs.close()


def test_a_folder_that_somebody_removed_is_made_again(service, tmp_path, picture, go):
    jobs = Jobs(service, Store(tmp_path / "outputs")).start()
    drawn(jobs.store)
    running = jobs.submit(GenerateRequest("a cat", seed=1, num_inference_steps=20), "anna")
    wait_for_step(jobs, running, 1)
    subprocess.run(["rm", "-r", str(jobs.store.folder)], check=True)
    assert jobs.history("anna") == []
    go.set()
    assert end_of(jobs, running).state == "done"
    assert end_of(jobs, jobs.submit(EditRequest(picture, "make it blue", seed=1), "anna")).state == "done"
    assert len(jobs.history("anna")) == 2
    jobs.close()


class _Tab:
    """What the History tab's list needs of the tab."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
