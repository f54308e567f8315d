"""Jobs that outlive the page: a queue, one worker thread, and snapshots that anybody can wait for.

The page (or a program) submits a request, gets an id, and follows it. Closing the page changes nothing for the job;
a stop is honoured within one step, and the next job starts only after the worker has really stopped. Where the service
answers several requests in one batch (`Service.together`), each is a job of its own all the same: a stopped one keeps
what it has at that step, which it gets when the batch is done.
"""

from __future__ import annotations

import base64
import contextvars
import io
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import takewhile

from PIL import Image

from app.batch import Drawn
from app.outcome import Outcome, Progress, Stopped, no_memory, sentence
from app.request import PICTURE_FIELDS, Request
from app.service import Service
from app.store import Record, Store
from app.texts import as_spoken_here, say

log = logging.getLogger(__name__)

PREVIEW_SIDE = 256
OWNER_MAX = 64  # characters of an owner: pages send a uuid of 36
PIXELS_MAX = 400_000_000  # of the pictures in the queue, at up to 4 bytes: a queue full of photographs, or ten of 40 MP
RECENT = 600.0  # seconds for which a job that has ended stays in its owner's list
REMEMBERED = 500  # finished jobs kept in memory; older ones are read from disk when somebody asks


class QueueFull(ValueError):
    """No room for another job just now."""


@dataclass(frozen=True)
class Snapshot:
    """A job as it stands. `record.state`: queued, running, done, stopped, failed or interrupted."""

    record: Record
    version: int = 0
    ahead: int = 0  # jobs before this one
    step: int = 0
    steps: int = 0
    eta: float | None = None  # seconds until the end, None while unknown
    stopping: bool = False
    loading: bool = False  # the worker is still loading the checkpoint
    preview: str = ""  # data URI of a small JPEG, "" when there is none

    @property
    def finished(self) -> bool:
        return self.record.finished


@dataclass
class _Job:
    record: Record
    request: Request | None  # gone once it is answered: its pictures are on the disk, and many would fill the memory
    # of whoever asked, and the job is answered in it: a shared GPU is lent to a page's own request (see `app.zero`)
    context: contextvars.Context | None = field(default_factory=contextvars.copy_context)
    stop: threading.Event = field(default_factory=threading.Event)
    version: int = 0
    step: int = 0
    steps: int = 0
    first_step: float = 0.0  # time.monotonic() when step 1 was done
    preview: str = ""
    address: str = ""  # where it came from, see `app.visitor`; never written down


@dataclass(frozen=True)
class _Errand:
    """Work between jobs: it may begin when none of the jobs `after` waits any more. It handles its own faults."""

    work: Callable[[], None]
    after: frozenset[str]


class Jobs:
    """The queue and its worker. `service` is used by the worker thread alone.

    Args:
        limit: of unfinished jobs.
        limit_per_owner: of those, one browser's. A browser says itself who it is, and a program says nothing.
        limit_per_address: those from one address, browsers' and programs', on a server that others reach. Half of the
            places, for many people may share one; who uses a server of their own may fill it.
        limit_pixels: of the pictures of all unfinished jobs, which wait in memory.
    """

    def __init__(
        self,
        service: Service,
        store: Store,
        *,
        limit: int = 32,
        limit_per_owner: int = 4,
        limit_per_address: int = 16,
        limit_pixels: int = PIXELS_MAX,
    ) -> None:
        self.service = service
        self.store = store
        self.limit = limit
        self.limit_per_owner = limit_per_owner
        self.limit_per_address = limit_per_address
        self.limit_pixels = limit_pixels
        self._jobs: dict[str, _Job] = {}
        self._waiting: deque[str] = deque()
        self._errands: deque[_Errand] = deque()
        self._running: list[str] = []  # more than one when the service answers several at once
        self._closed = False
        self._usual: dict[str, float] = {}  # seconds that the last job of a kind took
        self._changed = threading.Condition()
        self._worker = threading.Thread(target=self._work, name="studio-worker", daemon=True)

    def start(self) -> Jobs:
        """Lets the worker begin: it loads the checkpoint, then takes jobs. Returns itself."""
        self._worker.start()
        return self

    def submit(self, request: Request, owner: str = "", address: str = "") -> str:
        """Queues a request and returns its job id (a uuid4). QueueFull when there is no room, ValueError when it
        cannot be written down: it has no place then."""
        if not isinstance(owner, str) or len(owner) > OWNER_MAX or not owner.isprintable():
            raise ValueError(say("error.not_a_request"))
        with self._changed:
            self._check_room(request, owner, address)
            job_id = str(uuid.uuid4())
            record = Record(id=job_id, owner=owner, request=request.to_json(), created=time.time())
            self._jobs[job_id] = _Job(record, request, address=address)  # holds the place while the picture is written
        try:
            record = self.store.begin(record, getattr(request, "source", None), getattr(request, "mask", None))
        except BaseException as fault:
            with self._changed:
                del self._jobs[job_id]
            if not isinstance(fault, Exception):
                raise
            if not isinstance(fault, (OSError, MemoryError)):
                log.exception("a job could not be written down")
            raise ValueError(sentence(fault)) from fault
        with self._changed:
            self._jobs[job_id].record = record
            self._waiting.append(job_id)
            self._touch(self._jobs[job_id])
        return job_id

    def errand(self, work: Callable[[], None]) -> int:
        """Has the worker do something between two jobs: after all that are waiting now, before any that comes later.
        Returns how many jobs come first. `work` handles its own faults."""
        with self._changed:
            if self._closed:
                raise QueueFull(say("error.closing"))
            self._errands.append(_Errand(as_spoken_here(work), frozenset(self._waiting)))
            self._changed.notify_all()
            return len(self._waiting) + len(self._running)

    def stop(self, job_id: str) -> bool:
        """Asks a job to stop; a waiting one leaves the queue at once. False when there is nothing to stop."""
        with self._changed:
            job = self._jobs.get(job_id)
            if job is None or job.record.finished:
                return False
            job.stop.set()
            if job_id in self._waiting:
                self._waiting.remove(job_id)
                self._finish(job, self.store.close(job.record, "stopped", say("job.never_started")))
            self._touch(job)
            return True

    def snapshot(self, job_id: str) -> Snapshot | None:
        """How a job stands now, from memory or from disk; None for an id that nobody was given."""
        with self._changed:
            job = self._jobs.get(job_id)
            if job is not None:
                return self._snapshot(job)
        record = self.store.load(job_id)
        return Snapshot(record) if record else None

    def mine(self, owner: str, recent: float = RECENT) -> list[Snapshot]:
        """An owner's jobs: those that ended in the last `recent` seconds, the running one, the waiting ones."""
        now = time.time()
        with self._changed:
            shots = [self._snapshot(job) for job in self._jobs.values() if owner and job.record.owner == owner]
        shots = [shot for shot in shots if not shot.finished or now - shot.record.ended < recent]
        return sorted(shots, key=lambda shot: (not shot.finished, shot.ahead, shot.record.created))

    def history(self, owner: str) -> list[Record]:
        """An owner's finished jobs, newest first, also those of servers before this one. ValueError: the output
        folder cannot be read."""
        records = self.store.records(owner)
        with self._changed:
            known = {record.id: self._jobs[record.id].record for record in records if record.id in self._jobs}
        return [record for record in (known.get(old.id, old) for old in records) if record.finished]

    def delete(self, job_id: str, owner: str) -> bool:
        """Removes an owner's finished job with its files; False when there is no such job of theirs. ValueError: it
        cannot be removed, and stays."""
        snapshot = self.snapshot(job_id)
        if snapshot is None or not owner or snapshot.record.owner != owner or not snapshot.finished:
            return False
        removed = self.store.remove(job_id)
        with self._changed:
            self._jobs.pop(job_id, None)
        return removed

    def follow(self, job_id: str, timeout: float | None = None) -> Iterator[Snapshot]:
        """Snapshots as they change, the last one finished. Ends early after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        seen = -1
        while (snapshot := self.snapshot(job_id)) is not None:
            if snapshot.version != seen:
                seen = snapshot.version
                yield snapshot
            if snapshot.finished:
                return
            with self._changed:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return
                self._changed.wait_for(lambda known=seen: self._version(job_id) != known, timeout=left)

    def close(self, timeout: float = 10.0) -> None:
        """Stops the running job and the worker; waiting jobs are marked as interrupted on the next start."""
        with self._changed:
            self._closed = True
            for job in self._jobs.values():
                job.stop.set()
            self._changed.notify_all()
        if self._worker.is_alive():
            self._worker.join(timeout)

    # inside: everything below holds self._changed unless it says otherwise

    def _check_room(self, request: Request, owner: str, address: str) -> None:
        open_jobs = [job for job in self._jobs.values() if not job.record.finished]
        if self._closed:
            raise QueueFull(say("error.closing"))
        if len(open_jobs) >= self.limit:
            raise QueueFull(say("error.queue_full", count=len(open_jobs)))
        if owner and sum(job.record.owner == owner for job in open_jobs) >= self.limit_per_owner:
            raise QueueFull(say("error.own_queue_full", count=self.limit_per_owner))
        limited = address and not self.service.allow_paths  # which is so on a server of one's own
        if limited and sum(job.address == address for job in open_jobs) >= self.limit_per_address:
            raise QueueFull(say("error.address_queue_full", count=self.limit_per_address))
        if open_jobs and sum(_pixels(job.request) for job in open_jobs) + _pixels(request) > self.limit_pixels:
            raise QueueFull(say("error.queue_large"))

    def _version(self, job_id: str) -> int:
        job = self._jobs.get(job_id)
        return job.version if job else -1

    def _touch(self, job: _Job) -> None:
        job.version += 1
        self._changed.notify_all()

    def _snapshot(self, job: _Job) -> Snapshot:
        waiting = job.record.id in self._waiting
        ahead = (self._waiting.index(job.record.id) + len(self._running)) if waiting else 0
        return Snapshot(
            record=job.record,
            version=job.version,
            ahead=ahead,
            step=job.step,
            steps=job.steps,
            eta=self._eta(job, ahead),
            stopping=job.stop.is_set() and not job.record.finished,
            loading=job.record.state == "running" and self.service.state == "waiting",
            preview="" if job.record.finished else job.preview,
        )

    def _eta(self, job: _Job, ahead: int) -> float | None:
        if job.record.finished:
            return None
        if job.step >= 2:
            per_step = (time.monotonic() - job.first_step) / (job.step - 1)
            return per_step * (job.steps - job.step)
        if ahead:
            before = [*takewhile(lambda i: i != job.record.id, self._waiting), *self._running[:1]]
            usual = [self._usual.get(self._jobs[i].request.kind) for i in before]
            return None if None in usual else sum(usual)
        return None

    def _finish(self, job: _Job, record: Record) -> None:
        job.record, job.preview, job.request, job.context = record, "", None, None
        done = [i for i, other in self._jobs.items() if other.record.finished]
        for old in done[: max(0, len(done) - REMEMBERED)]:
            del self._jobs[old]
        self._touch(job)
        for i in self._waiting:
            self._touch(self._jobs[i])  # their places have changed

    # the worker thread; holds nothing

    def _work(self) -> None:
        _survived(self._load)  # before the first job, so that the first person waits less
        _survived(self._tidy)
        while (work := self._next()) is not None:
            if isinstance(work, _Errand):
                _survived(work.work)
                continue
            _survived(partial(self._answer, work))
            self._give_up(work)
            _survived(self._tidy)
            if not (self._waiting or self._errands or self._closed):
                _survived(self.service.settle)

    def _load(self) -> None:
        try:
            self.service.load()
        except ValueError as fault:  # the page says it
            log.error("%s", fault)

    def _answer(self, jobs: list[_Job]) -> None:
        for job, record in self._answered(jobs):
            with self._changed:
                self._running.remove(job.record.id)
                self._finish(job, record)

    def _give_up(self, jobs: list[_Job]) -> None:
        """Ends those that a fault of our own has left unfinished: they would keep their places for ever."""
        with self._changed:
            for job in jobs:
                if not job.record.finished:
                    self._running = [i for i in self._running if i != job.record.id]
                    self._finish(job, self.store.close(job.record, "failed", say("error.unexpected")))

    def _tidy(self) -> None:
        try:
            removed = self.store.tend(keep={i for i, other in list(self._jobs.items()) if not other.record.finished})
        except OSError as fault:  # somebody tidies the folder at the same time; after the next job it is tried again
            log.warning("the outputs could not be swept: %s", fault)
            return
        with self._changed:  # else they would be on show still, with pictures that are gone
            for job_id in removed:
                if job_id in self._jobs and self._jobs[job_id].record.finished:
                    del self._jobs[job_id]

    def _next(self) -> list[_Job] | _Errand | None:
        """The jobs to answer now, mostly one; or an errand; None: it is time to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._errands or self._closed)
            if self._closed:
                return None
            if self._errands and self._errands[0].after.isdisjoint(self._waiting):
                return self._errands.popleft()
            jobs = self._take()
            self._running = [job.record.id for job in jobs]
            for job in jobs:
                job.record = replace(job.record, state="running", started=time.time())
                self._touch(job)
        return jobs

    def _take(self) -> list[_Job]:
        """Takes the first job out of the queue and, where the service answers several at once, those that may be
        answered with it. They pass others, who wait little longer for that; but none passes an errand."""
        first = self._jobs[self._waiting.popleft()]
        others: list[_Job] = []
        _survived(lambda: others.extend(self._fitting(first)))
        for job in others:
            self._waiting.remove(job.record.id)
        return [first, *others]

    def _fitting(self, first: _Job) -> list[_Job]:
        """Those that wait and may be answered with a job."""
        room = self.service.together - getattr(first.request, "count", 1)
        if room <= 0 or (key := self.service.batch_key(first.request)) is None:
            return []
        found = []
        for job_id in [i for i in self._waiting if not self._errands or i in self._errands[0].after]:
            job = self._jobs[job_id]
            if self.service.batch_key(job.request) == key and job.request.count <= room:
                room -= job.request.count
                found.append(job)
        return found

    def _answered(self, jobs: list[_Job]) -> Iterator[tuple[_Job, Record]]:
        """Each job with its final record, as soon as it has one."""
        drawn = self._draw(jobs) if len(jobs) > 1 else None
        for number, job in enumerate(jobs):
            if drawn is None:
                progress = Progress(report=self._reporter(job), stop=job.stop)
                answer = partial(self.service.run, job.request, progress)
            else:
                answer = partial(self.service.finish, job.request, drawn[number])
            yield job, job.context.run(self._run, job, answer, 1 if drawn is None else len(jobs))

    def _draw(self, jobs: list[_Job]) -> list[Drawn] | None:
        """What several jobs come to in one batch; None when that fails: each is then answered by itself, and told its
        own fault."""
        try:
            for job in jobs:
                self.store.save(job.record)  # as running, before it runs
            return self.service.draw(
                [(job.request, Progress(report=self._reporter(job), stop=job.stop)) for job in jobs]
            )
        except Exception as fault:
            foreseen = isinstance(fault, ValueError) or no_memory(fault)
            log.warning("%d jobs cannot share a batch: %s", len(jobs), sentence(fault), exc_info=not foreseen)
            with self._changed:
                for job in jobs:
                    job.step, job.steps, job.preview = 0, 0, ""
                    self._touch(job)
            return None

    def _run(self, job: _Job, answer: Callable[[], Outcome], sharing: int) -> Record:
        """Brings one job, which shares its batch with so many, to its end and returns its final record; no fault leaves
        this function."""
        try:
            self.store.save(job.record)
            outcome = answer()
            self._usual[job.request.kind] = outcome.seconds / sharing
            return self.store.finish(job.record, outcome)
        except Stopped:
            return self.store.close(job.record, "stopped", say("job.stopped_early"))
        except Exception as fault:
            if not isinstance(fault, ValueError):
                log.exception("job %s failed", job.record.id)
            return self.store.close(job.record, "failed", sentence(fault))

    def _reporter(self, job: _Job):
        def report(done: int, total: int, preview: Image.Image | None) -> None:
            small = data_uri(preview) if preview is not None else ""
            with self._changed:
                if done == 1:
                    job.first_step = time.monotonic()
                job.step, job.steps = done, total
                job.preview = small or job.preview
                self._touch(job)

        return report


def _survived(work: Callable[[], object]) -> None:
    """Does something of the worker's, which must not end by it: nobody would be answered then, nor told why."""
    try:
        work()
    except Exception:
        log.exception("the worker goes on after a fault")


def _pixels(request: Request | None) -> int:
    """The pixels of a request's pictures."""
    pictures = (getattr(request, part, None) for part in PICTURE_FIELDS)
    return sum(picture.width * picture.height for picture in pictures if picture is not None)


def data_uri(picture: Image.Image, side: int = PREVIEW_SIDE, quality: int = 70) -> str:
    """A picture as a small JPEG inside a data URI: previews write no file and make no request."""
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
