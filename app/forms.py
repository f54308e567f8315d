"""What fills the tabs from outside them: a job of the history, a recipe in a PNG, a click that opens a result."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app import settings
from app.compare import CompareTab
from app.edit import EditTab, changed
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
        rooms = [part for tab in self.all.values() for part in (tab.room.job, tab.room.last, tab.room.draft)]
        of_edit = [edit.fresh, *edit.filling]
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
            self.edit.kept: changed(kept, parent=parent),
            self.tabs: gr.Tabs(selected="edit"),
        }

    def use(self, record: Record, kept: Any) -> Updates:
        """Fills the form that a job came from with all it was asked; {} when there is no such form here."""
        if record.request.get("kind") == "compare":
            compare, words = self.compare, record.request.get("prompt", "")
            found = {compare.tokenizers: compare.chips(record.request["tokenizers"])}
            found |= {compare.picture: source_path(self.jobs, record)}  # none where words alone were drawn
            found |= {compare.fit: record.request.get("fit", FITS[0]), compare.seed: record.request.get("seed", 0)}
            found |= {compare.prompt: words, **compare.room.drafted(words)}
            return found | {self.tabs: gr.Tabs(selected="compare")}
        found = settings.from_record(record, self.edit.service.defaults)
        return self.fill(found, record, kept) if found else {}

    def fill(self, found: Settings, record: Record | None = None, kept: Any = None, area: bool = True) -> Updates:
        """Fills a form with settings and, for an edit, with picture and (`area`) mask of `record`."""
        if found.kind == "generate":
            filled = self.generate.fill(found.values)
        else:
            filled = self.edit.fill(found.values, record, kept, area) | {self.edit.fresh: False}
        if not filled:
            return {}
        tab = self.all[found.kind]
        words = found.values.get("prompt") if tab.prompt in filled else None
        return filled | tab.room.drafted(words) | {self.tabs: gr.Tabs(selected=found.kind)}

    def use_file(self, path: str | None, owner: str, kept: Any) -> tuple[Updates, list[str], bool]:
        """Fills a form from the recipe in a PNG: updates, what there is to say, and whether nothing was filled in."""
        recipe, wrong = settings.recipe_in(path)
        if recipe is None:
            return {}, [wrong or say("restore.none")], True
        found = settings.from_recipe(recipe, self.edit.service)
        if found is None:
            return {}, [say("restore.kind", kind=recipe.kind)], True
        record = settings.source_record(self.jobs, owner, recipe.source_sha256, recipe.mask_sha256)
        same = record is not None and settings.has_mask(record, recipe.mask_sha256)
        updates = self.fill(found, record, kept, area=same)
        if not updates:
            return {}, [say("restore.cannot")], True
        # What the history still has is no longer missing.
        here = [say("restore.source", sha=recipe.source_sha256[:12])] if record else []
        here += [say("restore.mask")] if same else []
        return updates, [say("restore.used"), *(note for note in found.notes if note not in here)], False
