"""The Models tab: what is loaded and where it is from; load another, free it, fetch one from the hub."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from html import escape
from typing import Any

import gradio as gr

from app import widgets
from app.hub import PREFIX, Plan
from app.outcome import Facts, sentence
from app.room import POLL, QUIET, browser_state
from app.service import Service
from app.shelf import NotHere, Shelf, Task, megabytes
from app.texts import say
from app.views import duration

KEPT = 12  # checkpoints that a browser remembers
FILES_SHOWN = 8


class ModelsTab:
    """Lays out the tab inside the current Blocks; `wire` connects it. `remembered`: what this browser has loaded."""

    def __init__(self, shelf: Shelf, remembered: gr.BrowserState) -> None:
        self.shelf, self.service, self.remembered = shelf, shelf.service, remembered
        self.task = gr.State("")
        self.plan = gr.State(None)
        names = list(shelf.offers)
        with gr.Row(elem_classes="room", equal_height=False):
            with gr.Column(elem_classes="controls", scale=0, min_width=300):
                self.field = gr.Dropdown(
                    names,
                    value=names[0] if names else None,
                    label=say("models.field"),
                    info=say("models.field.help" if shelf.free_choice else "models.field.offered"),
                    allow_custom_value=shelf.free_choice,
                    elem_id="models-field",
                )
                with gr.Row(elem_classes="run-row", equal_height=True):
                    self.load = gr.Button(say("models.load"), variant="primary", elem_id="models-load")
                    self.free = gr.Button(say("models.free"), elem_id="models-free")
                self.status = widgets.status_box("models-status")
                self.files = gr.HTML("", elem_id="models-plan", apply_default_css=False)
                self.download = gr.Button("", variant="primary", visible=False, elem_id="models-download")
                self.stop = gr.Button(say("models.stop"), visible=False, elem_id="models-stop")
            with gr.Column(elem_classes="result", scale=1, min_width=320):
                self.panel = gr.HTML(panel(self.service), elem_id="models-panel", apply_default_css=False)

    def wire(self, demo: gr.Blocks) -> Any:
        """Connects every control of the tab; returns the events after which another checkpoint may be loaded."""
        asked = [self.task, self.status, self.plan, self.files, self.download]
        shown = [self.status, self.panel, self.load, self.free, self.stop, self.remembered]
        begun = (
            self.load.click(self._load, self.field, asked, **QUIET),
            self.free.click(self._free, None, asked, **QUIET),
            self.download.click(self._download, self.plan, asked, **QUIET),
        )
        self.stop.click(self.shelf.stop, self.task, None, queue=False, **QUIET)
        opened = demo.load(
            self._opened, self.remembered, [self.task, self.field, *shown], concurrency_limit=None, **QUIET
        )
        followed = [
            event.then(self._follow, [self.task, self.remembered], shown, concurrency_limit=None, **QUIET)
            for event in begun
        ]
        return [opened, *followed]

    # what the buttons do

    def _load(self, typed: str | None) -> Iterator[tuple[Any, ...]]:
        try:
            yield self._started(self.shelf.load(typed or ""))
        except NotHere:
            yield self._said(say("models.asking"))
            try:
                yield self._planned(self.shelf.plan(typed))
            except ValueError as fault:
                yield self._said(sentence(fault), wrong=True)
        except ValueError as fault:
            yield self._said(sentence(fault), wrong=True)

    def _free(self) -> tuple[Any, ...]:
        try:
            return self._started(self.shelf.free())
        except ValueError as fault:
            return self._said(sentence(fault), wrong=True)

    def _download(self, plan: Plan | None) -> tuple[Any, ...]:
        if plan is None:
            return self._said("")
        try:
            return self._started(self.shelf.download(plan))
        except ValueError as fault:
            return self._said(sentence(fault), wrong=True)

    @staticmethod
    def _started(task: Task) -> tuple[Any, ...]:
        return task.id, widgets.note(task.words), None, "", gr.Button(visible=False)

    @staticmethod
    def _said(words: str, wrong: bool = False) -> tuple[Any, ...]:
        return "", widgets.note(words, wrong), None, "", gr.Button(visible=False)

    @staticmethod
    def _planned(plan: Plan) -> tuple[Any, ...]:
        words = say("models.download", size=megabytes(plan.size), host=plan.host)
        return "", "", plan, files(plan), gr.Button(words, visible=True)

    async def _opened(self, remembered: list[str] | None) -> AsyncIterator[tuple[Any, ...]]:
        """A page just opened: a task that is under way is followed, whoever began it."""
        current = self.shelf.current()
        task_id, choices = current.id if current else "", self._choices(remembered)
        async for shown in self._follow(task_id, remembered):
            yield task_id, choices, *shown
            choices = gr.skip()

    def refreshed(self, remembered: list[str] | None) -> tuple[Any, ...]:
        """The panel and the choices anew: another page may have loaded another checkpoint."""
        return panel(self.service), self._choices(remembered)

    def _choices(self, remembered: list[str] | None) -> Any:
        known = remembered if self.shelf.free_choice and isinstance(remembered, list) else []
        return gr.Dropdown(choices=list(dict.fromkeys([*self.shelf.offers, *map(str, known)])))

    async def _follow(self, task_id: str, remembered: list[str] | None) -> AsyncIterator[tuple[Any, ...]]:
        """The status line, what is loaded, the buttons, and what the browser remembers, until the task has ended."""
        task, seen = self.shelf.task(task_id), None
        while task and not task.done:
            now = (task.words, self.service.state)
            if now != seen:
                seen = now
                busy = [gr.Button(interactive=False)] * 2
                stop = gr.Button(visible=task.fetching)
                yield widgets.note(task.words), panel(self.service), *busy, stop, gr.skip()
            await asyncio.sleep(POLL)
        said = widgets.note(task.words, task.wrong) if task else gr.skip()
        kept = gr.skip()
        if task and task.loaded and task.loaded not in self.shelf.offers:
            others = [one for one in remembered or [] if one != task.loaded]
            kept = [task.loaded, *others][:KEPT]
        ready = [gr.Button(interactive=True)] * 2
        yield said, panel(self.service), *ready, gr.Button(visible=False), kept


def panel(service: Service) -> str:
    """What is loaded, in words and numbers that can be checked."""
    if service.facts is not None:
        return f'<h2 class="quiet">{say("models.loaded")}</h2><dl class="facts">{_facts(service.facts)}</dl>'
    if service.failure:
        return widgets.card(say("models.failed.about", name=service.name, why=service.failure))
    about = "models.free.about" if service.state == "free" else "models.loading.about"
    return widgets.empty(say(about, name=service.name))


def _facts(facts: Facts) -> str:
    if facts.source.startswith(PREFIX):
        source = facts.source
    else:
        source = say("fact.source.official" if facts.official else "fact.source.folder", name=facts.source)
    shape = " × ".join(map(str, facts.latent_shape))
    rows = {
        "name": facts.name,
        "kind": say(f"can.{facts.kind}"),
        "source": source,
        "sha256": facts.sha256,
        "licence": say("fact.licence.none") if facts.licence == "not stated" else facts.licence,
        "device": facts.device,
        "dtype": facts.dtype,
        "attention": facts.attention,
        "parameters": f"{facts.parameters:,}",
        "memory": megabytes(facts.memory),
        "latent": say("fact.latent.of", shape=shape, side=facts.side),
        "classes": "" if facts.classes is None else f"{facts.classes:,}",
        "heads": say("fact.heads.official") if facts.official else "",
        "seconds": duration(facts.seconds),
    }
    return "".join(
        f"<dt>{escape(say(f'fact.{name}'))}</dt><dd>{escape(value)}</dd>" for name, value in rows.items() if value
    )


def files(plan: Plan) -> str:
    """What a download would fetch: the host, the files, their size."""
    count = len(plan.files)
    named = say("models.plan.one") if count == 1 else say("models.plan.more", count=count)
    head = say("models.plan", source=plan.source, host=plan.host, files=named, size=megabytes(plan.size))
    rows = [f"<li>{escape(name)} <span>{megabytes(size)}</span></li>" for name, size in plan.files[:FILES_SHOWN]]
    rows += [f"<li>{say('models.plan.rest', count=count - FILES_SHOWN)}</li>"] * (count > FILES_SHOWN)
    return f'{widgets.note(head)}<ul class="files">{"".join(rows)}</ul>'


def remembered() -> gr.BrowserState:
    """The checkpoints that this browser has loaded, as text."""
    return browser_state("models", [])
