"""The History tab: what this browser has made, found again, used again, taken along or deleted."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app import cards, widgets
from app.forms import Forms
from app.jobs import Jobs
from app.outcome import sentence
from app.restore import RecipeDrop
from app.room import QUIET
from app.settings import FIELDS
from app.store import Record
from app.texts import say

KINDS = ("all", "edit", "generate", "compare")
PAGE = 24


class HistoryTab:
    """Lays out the tab inside the current Blocks; `wire` connects it."""

    def __init__(self, jobs: Jobs, owner: gr.BrowserState) -> None:
        self.jobs, self.owner = jobs, owner
        self.limit = gr.State(PAGE)
        with gr.Row(elem_classes="room history", equal_height=False):
            with gr.Column(elem_classes="controls", scale=0, min_width=300):
                self.search = gr.Textbox(label=say("history.search"), lines=1, max_lines=1, elem_id="history-search")
                kinds = [(say(f"history.{kind}"), kind) for kind in KINDS]
                self.kind = gr.Radio(kinds, value=KINDS[0], label=say("history.kind"), elem_id="history-kind")
                self.drop = RecipeDrop("history")
            with gr.Column(elem_classes="result", scale=1, min_width=320):
                self.note = widgets.status_box("history-note")
                self.list = widgets.list_box("history-list")

    def wire(self, tab: gr.Tab, forms: Forms) -> None:
        """Connects the tab; the list is read anew whenever the tab comes on show."""
        self.drop.wire(forms)
        asked = [self.owner, self.search, self.kind, self.limit]
        for event in (tab.select, self.kind.change):
            event(self._list, asked, self.list, **QUIET)
        self.search.change(self._list, asked, self.list, trigger_mode="always_last", **QUIET)

        def act(owner: str, search: str, kind: str, limit: int, kept: Any, event: gr.EventData) -> dict[Any, Any]:
            if event.action == "more":
                limit = cards.pages(limit, PAGE) + PAGE
                return {self.limit: limit, self.list: self._list(owner, search, kind, limit), forms.opened: ""}
            record = self._own(event.job, owner)
            if record is None:
                said, updates = widgets.note(say("history.gone"), wrong=True), {}
            elif event.action == "delete":
                said, updates = self._delete(record, owner), {}
            else:
                said, updates = "", self._updates(forms, record, event, kept)
            updates = {forms.opened: "", **updates, self.note: said}
            return updates | ({} if said == "" else {self.list: self._list(owner, search, kind, limit)})

        acted = self.list.click(
            act,
            [*asked, forms.edit.kept],
            [self.note, self.list, self.limit, *forms.outputs],
            trigger_mode="always_last",
            **QUIET,
        )
        forms.follow_after(acted)

    @staticmethod
    def _updates(forms: Forms, record: Record, event: gr.EventData, kept: Any) -> dict[Any, Any]:
        if event.action == "open":
            return forms.open(record)
        if event.action == "edit":
            return forms.edit_this(record, event.index, kept)
        updates = forms.use(record, kept)
        if not updates and record.request.get("kind") in FIELDS:
            raise gr.Error(say("restore.cannot"), print_exception=False)
        return updates

    def _own(self, job: str, owner: str) -> Record | None:
        """A finished job of this owner's."""
        snapshot = self.jobs.snapshot(job)
        mine = snapshot is not None and snapshot.finished and owner and snapshot.record.owner == owner
        return snapshot.record if mine else None

    def _delete(self, record: Record, owner: str) -> str:
        try:
            self.jobs.delete(record.id, owner)
        except ValueError as fault:
            return widgets.note(sentence(fault), wrong=True)
        return widgets.note(say("history.deleted"))

    def _list(self, owner: str, search: str, kind: str, limit: int) -> str:
        try:
            everything = self.jobs.history(owner)
        except ValueError as fault:
            return widgets.card(sentence(fault))
        return cards.history(found(everything, search, kind), len(everything), cards.pages(limit, PAGE))


def found(records: list[Record], search: str | None, kind: str | None) -> list[Record]:
    """The jobs of a kind ("all": of every kind) whose prompts hold all the words that are looked for."""
    words = (search or "").casefold().split()
    return [
        record
        for record in records
        if kind in ("all", record.request.get("kind")) and all(word in cards.title(record).casefold() for word in words)
    ]
