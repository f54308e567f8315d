"""Other tokenizers' weights in the Compare tab: which are not on this machine, and fetching one from the hub.

Nothing is asked there before a person presses Get, and nothing fetched before a second press, with host and size on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from html import escape
from typing import Any

import gradio as gr

from app import widgets
from app.comparison import RANDOM
from app.hub import Plan
from app.library import import_library
from app.models import files
from app.outcome import sentence
from app.room import POLL, QUIET
from app.shelf import Shelf, megabytes
from app.texts import say, tokenizer_label


class WeightsBox:
    """Lays out the box inside the current Blocks; `wire` connects it."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.task, self.planned = gr.State(""), gr.State(None)  # planned: a name and its Plan
        self.missing = widgets.list_box("compare-missing")
        self.status = widgets.status_box("compare-get-status")
        self.files = gr.HTML("", elem_id="compare-get-plan", apply_default_css=False)
        self.download = gr.Button("", variant="primary", visible=False, elem_id="compare-get")
        self.stop = gr.Button(say("models.stop"), visible=False, elem_id="compare-get-stop")

    def wire(self, refreshed: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> None:
        """Connects the buttons. `refreshed` is called once a download has ended."""
        asked = [self.planned, self.status, self.files, self.download]
        self.missing.click(self._get, None, asked, **QUIET)
        begun = self.download.click(self._download, self.planned, [self.task, *asked], **QUIET)
        followed = begun.then(self._follow, self.task, [self.status, self.stop], concurrency_limit=None, **QUIET)
        followed.then(refreshed, inputs, outputs, **QUIET)
        self.stop.click(self.shelf.stop, self.task, None, queue=False, **QUIET)

    def offer(self) -> str:
        """Which tokenizers' weights are not here, and what can be done about it."""
        import_library()
        from rpiae.tokenizers import published_at

        names = [name.removesuffix(RANDOM) for name in self.shelf.service.tokenizers_without_weights()]
        if not names:
            return ""
        words = say("tokenizers.missing", names=", ".join(map(tokenizer_label, names)))
        if not self.shelf.hub.allowed:
            return widgets.note(f"{words} {say('tokenizers.missing.named')}")
        buttons = "".join(
            f'<button class="tool" data-action="get" data-job="{escape(name)}">'
            f"{escape(say('tokenizers.get', name=tokenizer_label(name)))}</button>"
            for name in names
            if published_at(name)
        )
        if buttons:
            words = f"{words} {say('tokenizers.get.help')}"
        return f'{widgets.note(words)}<div class="tools">{buttons}</div>'

    # what the buttons do

    def _get(self, event: gr.EventData) -> Iterator[tuple[Any, ...]]:
        """The plan of a download, once the hub has told it."""
        if event.action != "get":
            return
        yield self._said(say("models.asking"))
        try:
            plan = self.shelf.plan_tokenizer(str(event.job))
        except ValueError as fault:
            yield self._said(sentence(fault), wrong=True)
            return
        words = say("models.download", size=megabytes(plan.size), host=plan.host)
        yield (str(event.job), plan), "", files(plan), gr.Button(words, visible=True)

    def _download(self, planned: tuple[str, Plan] | None) -> tuple[Any, ...]:
        if planned is None:
            return "", *self._said("")
        try:
            task = self.shelf.download_tokenizer(*planned)
        except ValueError as fault:
            return "", *self._said(sentence(fault), wrong=True)
        return task.id, *self._said(task.words)

    @staticmethod
    def _said(words: str, wrong: bool = False) -> tuple[Any, ...]:
        return None, widgets.note(words, wrong) if words else "", "", gr.Button(visible=False)

    async def _follow(self, task_id: str) -> AsyncIterator[tuple[Any, ...]]:
        """The status line and Stop, until the download has ended."""
        task, seen = self.shelf.task(task_id), None
        while task and not task.done:
            if task.words != seen:
                seen = task.words
                yield widgets.note(seen), gr.Button(visible=task.fetching)
            await asyncio.sleep(POLL)
        yield widgets.note(task.words, task.wrong) if task else gr.skip(), gr.Button(visible=False)
