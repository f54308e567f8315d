"""Choosing a checkpoint while the studio runs: what may be loaded, loading and freeing between jobs, downloads.

One thing at a time for the whole server. A page starts a task, gets its id and looks at it, as it does with jobs:
closing the page changes nothing.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from app import hub
from app.checkpoint import short_name
from app.hub import Hub, Plan
from app.jobs import Jobs
from app.library import import_library
from app.outcome import sentence
from app.texts import as_spoken_here, say, tokenizer_label

log = logging.getLogger(__name__)

REMEMBERED = 20  # tasks
LONGEST = 1000  # characters of a path or an id


@dataclass
class Task:
    """What was asked for and how it stands. `words`: one sentence for the page; `fetching`: it can be stopped."""

    id: str
    words: str
    done: bool = False
    wrong: bool = False
    fetching: bool = False
    loaded: str = ""  # what the person typed, once it is loaded
    stop: threading.Event = field(default_factory=threading.Event)


class Shelf:
    """`offers`: checkpoints by the names that the page offers; `hub`: None where downloads are not offered."""

    def __init__(self, jobs: Jobs, offers: dict[str, str], hub: Hub | None = None) -> None:
        self.jobs, self.service, self.offers = jobs, jobs.service, offers
        self.hub = hub or Hub(allowed=False)
        self._tasks: dict[str, Task] = {}
        self._lock = threading.Lock()

    @property
    def free_choice(self) -> bool:
        """Whether people may name folders of this machine and repositories."""
        return self.service.allow_paths

    def load(self, typed: str) -> Task:
        """Begins to load what a person named. ValueError says why it cannot be, before anything is given up."""
        source = self._source(typed)
        if source.startswith(hub.PREFIX) and hub.local(source) is None:
            raise NotHere(say("error.not_fetched", source=source))
        return self._begin(say("models.begun.load", name=short_name(source)), self._loader(source, typed))

    def free(self) -> Task:
        """Begins to give back the memory of what is loaded."""

        def free(task: Task) -> None:
            self.service.free()
            task.words = say("models.done.free", name=self.service.name)

        return self._begin(say("models.begun.free", name=self.service.name), free)

    def plan(self, typed: str) -> Plan:
        """What fetching a checkpoint would mean; asks the hub for the list. ValueError: it cannot be had."""
        return self.hub.plan(self._source(typed))

    def download(self, plan: Plan) -> Task:
        """Begins to fetch what a plan says, and loads it then."""
        self._source(plan.source)
        return self._fetching(plan, lambda task: self._wait_for_worker(task, self._loader(plan.source, plan.source)))

    def _fetching(self, plan: Plan, then: Callable[[Task], None]) -> Task:
        """Fetches what a plan says, and does something with it `then`."""
        task = self._new(say("models.fetching", host=plan.host, done=megabytes(0), size=megabytes(plan.size)))
        task.fetching = True

        def report(done: int, size: int) -> None:
            task.words = say("models.fetching", host=plan.host, done=megabytes(done), size=megabytes(size))

        def fetch() -> None:
            try:
                self.hub.fetch(plan, report, task.stop)
                task.fetching = False
                then(task)
            except Exception as fault:
                self._fail(task, fault)

        threading.Thread(target=as_spoken_here(fetch), name="studio-download", daemon=True).start()
        return task

    def plan_tokenizer(self, name: str) -> Plan:
        """What fetching a tokenizer's published weights would mean. ValueError: they cannot be had."""
        import_library()
        from rpiae.tokenizers import published_at

        place = published_at(name)
        if place is None:
            raise ValueError(say("error.no_weights_published", name=tokenizer_label(name[:40])))
        repository, file = place
        return self.hub.plan(hub.PREFIX + repository, [file])

    def download_tokenizer(self, name: str, plan: Plan) -> Task:
        """Begins to fetch a tokenizer's weights as planned; comparisons find them then."""
        return self._fetching(plan, lambda task: self._fetched(task, name))

    def stop(self, task_id: str) -> None:
        """Ends a download; loading cannot be ended half-way."""
        task = self._tasks.get(task_id)
        if task and task.fetching:
            task.stop.set()

    def task(self, task_id: str) -> Task | None:
        """How a task stands."""
        return self._tasks.get(task_id)

    def current(self) -> Task | None:
        """The task that is under way, whoever began it."""
        with self._lock:
            return next((task for task in self._tasks.values() if not task.done), None)

    # inside

    def _source(self, typed: str) -> str:
        """The checkpoint that a person means. ValueError for one that this server does not offer."""
        typed = typed.strip() if isinstance(typed, str) else ""
        if not typed:
            raise ValueError(say("error.no_checkpoint_named"))
        if len(typed) > LONGEST:
            raise ValueError(say("error.long_text", count=len(typed), limit=LONGEST))
        if typed in self.offers:
            return self.offers[typed]
        if not self.free_choice:
            raise ValueError(say("error.paths_off", names=", ".join(self.offers)))
        if typed.startswith(hub.PREFIX):
            hub.repository(typed)
        return typed

    def _loader(self, source: str, typed: str) -> Callable[[Task], None]:
        def load(task: Task) -> None:
            name, kept = short_name(source), self.service.name
            task.words = say("models.begun.load", name=name)
            try:
                self.service.switch(source)
            except ValueError as fault:
                words = sentence(fault)
                kept_whole = self.service.state == "ready"
                raise ValueError(say("models.kept", why=words, name=kept) if kept_whole else words) from fault
            task.loaded = typed
            task.words = say("models.done.load", name=name)

        return load

    def _new(self, words: str) -> Task:
        with self._lock:
            if any(not task.done for task in self._tasks.values()):
                raise ValueError(say("error.models_busy"))
            for old in list(self._tasks)[: max(0, len(self._tasks) - REMEMBERED)]:
                del self._tasks[old]
            task = Task(str(uuid.uuid4()), words)
            self._tasks[task.id] = task
        return task

    def _begin(self, words: str, work: Callable[[Task], None]) -> Task:
        task = self._new(words)
        try:
            self._wait_for_worker(task, work)
        except ValueError as fault:
            self._fail(task, fault)
            raise
        return task

    def _wait_for_worker(self, task: Task, work: Callable[[Task], None]) -> None:
        """Hands the work to the thread that runs the jobs: it is never done in the middle of one."""

        def errand() -> None:
            try:
                work(task)
                task.done = True
            except Exception as fault:
                self._fail(task, fault)

        ahead = self.jobs.errand(errand)
        if ahead and not task.done:
            count = say("models.waiting.one") if ahead == 1 else say("models.waiting.more", count=ahead)
            task.words = f"{task.words} {say('models.waiting', ahead=count)}"

    @staticmethod
    def _fetched(task: Task, name: str) -> None:
        task.words, task.done = say("tokenizers.got", name=tokenizer_label(name)), True

    @staticmethod
    def _fail(task: Task, fault: Exception) -> None:
        if not isinstance(fault, ValueError):
            log.exception("a checkpoint could not be loaded", exc_info=fault)
        task.words, task.wrong, task.fetching, task.done = sentence(fault), True, False, True


class NotHere(ValueError):
    """A checkpoint of the hub that is not on this machine yet."""


def offers(*sources: str) -> dict[str, str]:
    """Checkpoints by short name, those that are there; ids of the hub keep their whole name."""
    found: dict[str, str] = {}
    for source in sources:
        if source.startswith(hub.PREFIX):
            found.setdefault(source, source)
        elif Path(source).exists():
            found.setdefault(short_name(source), source)
    return found


def megabytes(size: int) -> str:
    """A size in few words, as in "335 MB"; never 0 for something."""
    if size >= 10**9:
        return f"{size / 10**9:.1f} GB"
    return f"{size / 10**6:.1f} MB" if size < 10 * 10**6 else f"{size / 10**6:.0f} MB"
