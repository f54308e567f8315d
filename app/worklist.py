"""The list of this browser's jobs that run or wait while another is on show: their places, show, remove."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from app import cards, widgets
from app.forms import Forms
from app.jobs import Jobs
from app.room import POLL, QUIET


class Worklist:
    """The list above the tabs. Like a job's view it is only looked at: the work goes on without it."""

    def __init__(self, jobs: Jobs, owner: gr.BrowserState) -> None:
        self.jobs, self.owner = jobs, owner
        self.turn = gr.State([0])
        self.queued = gr.State([])  # jobs that began in line: those that have ended stay listed until they are shown
        self.list = widgets.list_box("jobs")

    def wire(self, demo: gr.Blocks, forms: Forms) -> None:
        """Watches the jobs from the page's opening, and anew after each run and each click that shows another."""

        def act(owner: str, queued: list[str], event: gr.EventData) -> dict[Any, Any]:
            snapshot = self.jobs.snapshot(event.job)
            if snapshot is None or not owner or snapshot.record.owner != owner:
                return {forms.opened: ""}
            queued[:] = [job for job in queued if job != event.job]  # removed or shown, it is listed no longer
            if event.action == "remove":
                self.jobs.stop(event.job)
                return {forms.opened: ""}
            return {forms.opened: "", **forms.open(snapshot.record)}

        acted = self.list.click(act, [self.owner, self.queued], forms.outputs, trigger_mode="always_last", **QUIET)
        forms.follow_after(acted)
        rooms = [tab.room for tab in forms.all.values()]
        inputs = [self.owner, *(room.last for room in rooms), self.queued, self.turn]
        shared = {"concurrency_limit": None, **QUIET}
        demo.load(self._watch, inputs, self.list, **shared)
        for event in (acted, forms.edit.moved, *(room.begun for room in rooms)):
            event.success(self._watch, inputs, self.list, **shared)

    async def _watch(self, owner: str, *rest: Any) -> AsyncIterator[str]:
        """The list whenever it changes, until nothing of this owner's is left to run."""
        *shown, queued, turn = rest
        turn[0] += 1
        mine, last = turn[0], None
        while turn[0] == mine:
            shots = self.jobs.mine(owner)
            listed = [shot for shot in shots if not shot.finished or shot.record.id in queued]
            rows = cards.job_rows(listed, shown)
            if rows != last:
                yield rows
                last = rows
            if all(shot.finished for shot in shots):
                return
            await asyncio.sleep(2 * POLL)
