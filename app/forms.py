"""What fills the tabs from outside them: a job of the history, a recipe in a PNG, a click that opens a result."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app import settings, widgets
from app.area import MODES
from app.compare import CompareTab
from app.edit import EditTab
from app.generate import GenerateTab
from app.jobs import Jobs
from app.request import FITS
from app.room import picture_path, source_path
from app.settings import Settings
from app.store import Record
from app.texts import say

Updates = dict[Any, Any]


class Forms:
    """The three tabs that have a form. Its methods return updates by component, for an event with `outputs`."""

    def __init__(self, tabs: gr.Tabs, edit: EditTab, generate: GenerateTab, compare: CompareTab, jobs: Jobs) -> None:
        self.tabs, self.edit, self.generate, self.compare, self.jobs = tabs, edit, generate, compare, jobs
        self.opened = gr.State("")  # the tab whose job was opened, for `follow_after`

    @property
    def all(self) -> dict[str, Any]:
        """The tabs by the kind of their jobs."""
        return {"edit": self.edit, "generate": self.generate, "compare": self.compare}

    @property
    def outputs(self) -> list[Any]:
        """Every component that the methods may fill."""
        edit, generate, compare = self.edit, self.generate, self.compare
        rooms = [part for tab in self.all.values() for part in (tab.room.job, tab.room.last)]
        of_edit = [edit.picture, edit.kept, edit.fresh, *edit.fields.values(), edit.area.mode, edit.area.file]
        of_generate = [generate.fresh, generate.seed, *generate.form]
        of_compare = [compare.picture, compare.tokenizers, compare.fit, compare.prompt, compare.seed]
        return [self.opened, self.tabs, *rooms, *of_edit, *of_generate, *of_compare]

    def follow_after(self, event: Any) -> None:
        """Follows what an event has opened, in its own tab."""
        for tab in self.all.values():
            tab.room.follow_opened_after(event.success, self.opened)

    def open(self, record: Record) -> Updates:
        """Shows a job in its tab."""
        kind = record.request.get("kind", "")
        tab = self.all.get(kind)
        if tab is None:
            return {}
        room = tab.room
        return {self.opened: kind, self.tabs: gr.Tabs(selected=kind), room.job: record.id, room.last: record.id}

    def edit_this(self, record: Record, index: int, kept: Any) -> Updates:
        """A job's picture becomes the one to edit."""
        path = picture_path(self.jobs, record.id, index)
        if path is None:
            return {}
        parent = [record.id, index] if record.request.get("kind") == "edit" else None
        return {
            self.edit.picture: path,
            self.edit.kept: {**(kept if isinstance(kept, dict) else {}), "parent": parent},
            self.tabs: gr.Tabs(selected="edit"),
        }

    def use(self, record: Record, kept: Any) -> Updates:
        """Fills the form that a job came from with all it was asked; {} when there is no such form here."""
        if record.request.get("kind") == "compare":
            source = source_path(self.jobs, record)
            found = {self.compare.tokenizers: self.compare.chips(record.request["tokenizers"])}
            found |= {self.compare.fit: record.request.get("fit", FITS[0])}
            found |= {self.compare.picture: source}  # none where words alone were drawn
            found |= {self.compare.prompt: record.request.get("prompt", "")}
            found |= {self.compare.seed: record.request.get("seed", 0)}
            return found | {self.tabs: gr.Tabs(selected="compare")}
        found = settings.from_record(record, self.edit.service.defaults)
        return self.fill(found, record, kept) if found else {}

    def fill(self, found: Settings, record: Record | None = None, kept: Any = None) -> Updates:
        """Fills a form with settings and, for an edit, with picture and mask of `record`."""
        if found.kind == "generate":
            filled = self.generate.fill(found.values)
            return filled and filled | {self.tabs: gr.Tabs(selected="generate")}
        edit = self.edit
        updates = dict(zip(edit.fields.values(), widgets.filled(edit.fields, found.values), strict=True))
        updates |= {edit.fresh: False, self.tabs: gr.Tabs(selected="edit")}
        source = source_path(self.jobs, record) if record else None
        if source:
            parent = [record.request.get("parent") or "", record.request.get("parent_picture") or 0]
            updates |= {edit.picture: source, edit.kept: {**(kept if isinstance(kept, dict) else {}), "parent": parent}}
            mask = self.jobs.store.file(record.id, record.mask) if record.mask else None
            updates |= {edit.area.mode: "file", edit.area.file: str(mask)} if mask else {edit.area.mode: MODES[0]}
        return updates

    def use_file(self, path: str | None, owner: str, kept: Any) -> tuple[Updates, list[str], bool]:
        """Fills a form from the recipe in a PNG: updates, what there is to say, and whether nothing was filled in."""
        recipe, wrong = settings.recipe_in(path)
        if recipe is None:
            return {}, [wrong or say("restore.none")], True
        found = settings.from_recipe(recipe, self.edit.service)
        if found is None:
            return {}, [say("restore.kind", kind=recipe.kind)], True
        record = settings.source_record(self.jobs, owner, recipe.source_sha256)
        updates = self.fill(found, record, kept)
        if not updates:
            return {}, [say("restore.cannot")], True
        # What the history still has is no longer missing.
        here = (say("restore.source", sha=recipe.source_sha256[:12]), say("restore.mask")) if record else ()
        return updates, [say("restore.used"), *(note for note in found.notes if note not in here)], False
