"""What all tabs share: start a job, remember it in the browser, follow it, stop it, find it again after a reload.

Gradio ends a running generator when the page goes away. So nothing is computed in one: the work is done by
`app.jobs`, and `follow` here only looks at it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from html import escape
from typing import Any

import gradio as gr

from app import views, widgets
from app.comparison_files import SOURCE
from app.jobs import Jobs, Snapshot
from app.outcome import sentence
from app.request import Request
from app.service import Service
from app.store import Record
from app.texts import say
from app.visitor import visitor

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
POLL = 0.1  # seconds between looks at a job: a follower holds no thread, and steps are not faster
BROWSER_SECRET = (
    "rpiae-studio"  # a constant: with a random one every restart would forget what browsers remember
)

Validator = Callable[..., list[dict[str, Any]]]


def browser_state(key: str, default: Any = "") -> gr.BrowserState:
    """A value kept by the visitor's browser; only text and ids, never pictures."""
    return gr.BrowserState(default, storage_key=f"rpiae.{key}.v1", secret=BROWSER_SECRET)


@dataclass
class Room:
    """One tab's moving parts. `show` turns a finished record into the view's HTML, `idle` is the view before any."""

    name: str
    jobs: Jobs
    owner: gr.BrowserState
    show: Callable[[Record], str]
    idle: str
    run: gr.Button = field(init=False)
    stop: gr.Button = field(init=False)
    begun: Any = field(init=False)  # the event that a job was submitted with
    view: gr.HTML = field(init=False)
    status: gr.HTML = field(init=False)

    def __post_init__(self) -> None:
        """What is kept: the job on show, the same id in the browser, and words in the form that were not sent yet,
        typed or filled in."""
        self.job = gr.State("")
        self.turn = gr.State([0])  # counts followers: each new one ends those before it
        self.queued = gr.State([])  # jobs put in line while another was on show; one list for all rooms
        # what to call once a job has been followed to its end: functions with their inputs and outputs
        self.after: list[tuple[Callable[..., Any], list[Any], list[Any]]] = []
        self.last = browser_state(f"job.{self.name}")
        self.draft = browser_state(f"draft.{self.name}")

    def keep_draft(self, prompt: gr.Textbox) -> None:
        """Keeps what is being typed in the browser; asks the server nothing."""
        prompt.input(None, prompt, self.draft, js="(text) => text", **QUIET)

    def drafted(self, words: str | None) -> dict[Any, Any]:
        """Keeps words that were filled in as those that are typed are kept; none for None."""
        return {} if words is None else {self.draft: words}

    def add_buttons(self) -> None:
        """Run and Stop in one row, found by the keyboard shortcuts through their classes."""
        with gr.Row(elem_classes="run-row", equal_height=True):
            name = self.name
            self.run = gr.Button(  # works from `open_after` on
                say(f"run.{name}"),
                variant="primary",
                elem_id=f"{name}-run",
                elem_classes="run opening",
                interactive=False,
            )
            self.stop = gr.Button(say("stop"), elem_id=f"{name}-stop", elem_classes="stop", interactive=False)
        gr.HTML(f'<p class="keys">{say("keys")}</p>', apply_default_css=False)

    def add_result(self) -> None:
        """The picture's place and the status line under it."""
        self.view = widgets.view_box(f"{self.name}-view", self.idle)
        self.status = widgets.status_box(f"{self.name}-status")

    def wire(
        self,
        make: Callable[..., Request],
        inputs: list[Any],
        seed: gr.Number | None = None,
        validator: Validator | None = None,
        began: tuple[Callable[..., Any], Any] | None = None,
    ) -> None:
        """Connects Run and Stop. `make(*inputs)` builds the request; a ValueError of it becomes a notice.

        With `seed`, the seed that the request really uses is written there before the work begins. `began`: a function
        and a component, which becomes `function(job id, request, *inputs)` when a job comes on show.
        """
        changed = [self.job, self.last, self.draft, *([began[1]] if began else [])]

        def start(owner: str, shown: str, queued: list[str], *values: Any) -> tuple[Any, ...]:
            try:
                request = make(*values)
                job_id = self.jobs.submit(request, owner or "", visitor())
            except ValueError as fault:
                raise gr.Error(sentence(fault), print_exception=False) from fault
            before = self.jobs.snapshot(shown) if shown else None
            if before is not None and not before.finished:  # then this one waits in the list of jobs
                queued.append(job_id)
                told = [gr.skip()] * len(changed)
            else:
                told = [job_id, job_id, "", *([began[0](job_id, request, *values)] if began else [])]
            return (*told, *([request.seed] if seed else []))

        def check(owner: str, shown: str, queued: list[str], *values: Any) -> list[dict[str, Any]]:
            return [gr.validate(True, "")] * 3 + validator(*values)

        begun = self.run.click(
            start,
            [self.owner, self.job, self.queued, *inputs],
            [*changed, *([seed] if seed else [])],
            validator=check if validator else None,
            **QUIET,
        )
        self.begun = begun
        self.follow_after(begun.success)
        self.stop.click(
            self.jobs.stop, self.job, None, queue=False, **QUIET
        )

    def open_after(self, restored: Any, able: Callable[[], bool] = lambda: True) -> None:
        """Lets Run work, for a checkpoint that is `able`, and follows the job on show, once the event `restored` has
        filled the form of a page just opened: it would put an earlier job over one begun before. Also when it fails."""

        def ready() -> gr.Button:
            return gr.Button(interactive=able(), elem_classes="run")

        self.follow_after(restored.then(ready, None, self.run, **QUIET).then)

    def follow_after(self, event: Callable[..., Any]) -> None:
        """Follows the job on show once `event` has happened."""
        self._then_after(
            event(
                self.follow,
                [self.job, self.turn],
                [self.view, self.status, self.run, self.stop],
                concurrency_limit=None,
                **QUIET,
            )
        )

    def follow_opened_after(self, event: Callable[..., Any], opened: gr.State, then: bool = True) -> None:
        """The same, if what `event` has opened is of this room: its name is in `opened`. `then`: with `after`."""

        async def follow(name: str, job_id: str, turn: list[int]) -> AsyncIterator[tuple[Any, ...]]:
            if name != self.name:
                yield (gr.skip(),) * 4
                return
            async for shown in self.follow(job_id, turn):
                yield shown

        followed = event(
            follow,
            [opened, self.job, self.turn],
            [self.view, self.status, self.run, self.stop],
            concurrency_limit=None,
            **QUIET,
        )
        if then:
            self._then_after(followed)

    def _then_after(self, followed: Any) -> None:
        for function, inputs, outputs in self.after:
            followed.then(function, inputs, outputs, **QUIET)

    async def follow(self, job_id: str, turn: list[int]) -> AsyncIterator[tuple[Any, ...]]:
        """The view, the status line and the two buttons, each time something about the job changes."""
        seen, shown = -1, None
        turn[0] += 1
        mine = turn[0]
        while job_id and turn[0] == mine:
            snapshot = self.jobs.snapshot(job_id)
            if snapshot is None:
                yield widgets.card(say("job.unknown")), "", *self._buttons(busy=False)
                return
            if snapshot.version != seen:
                seen = snapshot.version
                view = self.page(snapshot)
                buttons = self._buttons(busy=not snapshot.finished)
                yield gr.skip() if view == shown else view, views.status(snapshot), *buttons
                shown = view
            if snapshot.finished:
                return
            await asyncio.sleep(POLL)
        yield (gr.skip(),) * 4

    def _buttons(self, busy: bool) -> tuple[gr.Button, gr.Button]:
        """Run and Stop; while a job of this room is on show, Run puts another one in line."""
        return gr.Button(say("run.queue" if busy else f"run.{self.name}")), gr.Button(interactive=busy)

    def page(self, snapshot: Snapshot) -> str:
        """The view's HTML for a job as it stands."""
        record = snapshot.record
        if not snapshot.finished:
            return views.working(snapshot)
        return self.show(record) if record.pictures or record.rows else widgets.card(record.reason)


def describe_upload(service: Service, picture: gr.Image, note: gr.HTML, editing: bool) -> None:
    """Says in `note` what will happen to an uploaded picture; a file that is none is taken out again."""

    def describe(path: str | None) -> tuple[Any, Any]:
        if path is None:
            return gr.skip(), gr.skip()
        try:
            return gr.skip(), f'<p class="note">{escape(service.describe(path, editing))}</p>'
        except ValueError as fault:
            return None, f'<p class="note wrong">{escape(sentence(fault))}</p>'

    picture.change(describe, picture, [picture, note], **QUIET)
    picture.clear(lambda: "", None, note, **QUIET)


def picture_path(jobs: Jobs, job_id: str, index: int) -> str | None:
    """The file of a job's picture `index`; None when it is not there."""
    snapshot = jobs.snapshot(job_id)
    if snapshot is None or not 0 <= index < len(snapshot.record.pictures):
        return None
    path = jobs.store.file(job_id, snapshot.record.pictures[index]["file"])
    return str(path) if path else None


def source_path(jobs: Jobs, record: Record) -> str | None:
    """The file of the picture that a job began with; a comparison's record names what its tokenizers were given."""
    names = (SOURCE, record.source["file"]) if record.source else ()
    return next((str(path) for name in names if (path := jobs.store.file(record.id, name))), None)
