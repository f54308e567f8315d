"""The Edit tab: a picture and an instruction in, the changed picture beside it out, and edits of edits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from app import cards, settings, widgets
from app.area import AreaBox
from app.chain import Step, begins_with, chain, file_at, merged, parent_at
from app.examples import Example
from app.request import GUIDANCE_MAX, EditRequest, new_seed
from app.room import QUIET, Room, describe_upload, picture_path, source_path
from app.service import Service
from app.store import Record
from app.texts import say

if TYPE_CHECKING:
    from app.forms import Forms


class EditTab:
    """Lays out the tab inside the current Blocks; `wire` connects it.

    `kept` is what the browser remembers of the chain: {"tip": [job, picture], "parent": [job, picture] or None}.
    The tip is the chain's last picture; the parent is the picture that the form holds, ["", 0] for the original and
    None for one that is of no chain.
    """

    def __init__(self, room: Room, service: Service, examples: list[Example], kept: gr.BrowserState) -> None:
        self.room, self.service, self.examples, self.kept = room, service, examples, kept
        defaults = service.defaults
        with gr.Row(elem_classes="room", equal_height=False):
            with gr.Column(elem_classes="controls", scale=0, min_width=300):
                self.shown = gr.State("")  # the checkpoint that the form is made for
                self.notice = widgets.notice_box("edit-notice")
                self.picture = widgets.picture_box("edit-picture")
                self.note = widgets.status_box("edit-note")
                self.restored = widgets.list_box("edit-restored")
                self.prompt = gr.Textbox(
                    label=say("instruction"),
                    placeholder=say("instruction.placeholder"),
                    lines=2,
                    max_lines=6,
                    elem_id="edit-prompt",
                )
                room.add_buttons()
                self.area = AreaBox(service)
                self.count = widgets.count_slider("edit")
                self.seed, self.fresh = widgets.seed_row("edit")
                with gr.Accordion(say("more"), open=False, elem_id="edit-more"):
                    self.image_guidance = widgets.slider("image_guidance", 0, GUIDANCE_MAX / 2, 0.1, defaults)
                    self.guidance = widgets.slider("guidance", 0, GUIDANCE_MAX / 2, 0.1, defaults)
                    self.steps = widgets.slider("steps", 1, 100, 1, defaults)
                    self.preserve = gr.Checkbox(True, label=say("preserve"), info=say("preserve.help"))
                    self.negative = gr.Textbox(label=say("negative_prompt"), info=say("negative_prompt.help"))
            with gr.Column(elem_classes="result", scale=1, min_width=320):
                room.add_result()
                self.strip = widgets.list_box("edit-chain")
                self.shipped = gr.HTML(
                    widgets.example_strip(examples),
                    elem_id="edit-examples",
                    js_on_load=widgets.VIEW_JS,
                    apply_default_css=False,
                    visible=bool(examples),
                )

    @property
    def fields(self) -> dict[str, Any]:
        """What settings can fill, by the names of an `EditRequest`."""
        return {
            "prompt": self.prompt,
            "negative_prompt": self.negative,
            "seed": self.seed,
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance,
            "count": self.count,
            "image_guidance_scale": self.image_guidance,
            "preserve_unchanged": self.preserve,
        }

    @property
    def form(self) -> list[Any]:
        """What differs from one checkpoint to another: the outputs of `switched`."""
        return [self.shown, self.notice, self.room.run, self.steps, self.guidance, self.image_guidance]

    def switched(self, shown: str) -> tuple[Any, ...]:
        """The form after another checkpoint was loaded, with its settings; a page just opened keeps those it has."""
        service = self.service
        if shown == service.key:
            return shown, *[gr.skip()] * 5
        able, defaults = service.can("edit"), service.defaults
        notice = "" if able else widgets.note(say("cannot.edit", can=say(f"can.{service.kind}")))
        names = ("num_inference_steps", "guidance_scale", "image_guidance_scale")
        values = [defaults[name] if shown and able else gr.skip() for name in names]
        return service.key, gr.HTML(notice, visible=not able), gr.Button(interactive=able), *values

    def wire(self, demo: gr.Blocks) -> None:
        """Connects every control of the tab."""
        room = self.room
        room.after = (self._chain, [room.owner, room.job, self.kept], [self.strip, self.kept])
        fields = list(self.fields.values())
        inputs = [self.picture, room.owner, self.kept, self.fresh, *fields, *self.area.inputs]
        room.wire(self._request, inputs, self.seed, self._check)
        self.area.wire(self.picture)
        describe_upload(self.service, self.picture, self.note, editing=True)
        uploaded = [self.kept, self.strip, self.restored, self.fresh, *fields]
        self.picture.upload(self._uploaded, [self.picture, room.owner, room.job, self.kept], uploaded, **QUIET)
        self.restored.click(
            self._take_source, [self.picture, room.owner, self.kept], [self.picture, self.kept, self.restored], **QUIET
        )
        self.shipped.click(self._use_example, None, [self.picture, self.prompt, room.view, room.status], **QUIET)
        room.view.click(self._go_on, [room.owner, room.job, self.kept], [self.picture, self.kept, self.strip], **QUIET)
        opened = gr.State("")
        self.moved = self.strip.click(
            self._move,
            [room.owner, room.job, self.kept],
            [opened, room.job, room.last, room.view, room.status, self.strip, self.kept, self.picture, self.prompt],
            trigger_mode="always_last",
            **QUIET,
        )
        room.follow_opened_after(self.moved.success, opened, then=False)  # the strip is as it must be already
        room.keep_draft(self.prompt)
        restored = demo.load(
            self._restore,
            [room.owner, room.last, room.draft, self.kept],
            [room.job, self.picture, self.kept, self.restored, self.fresh, *fields],
            **QUIET,
        )
        room.follow_after(restored.then)

    def use_elsewhere(self, forms: Forms) -> None:
        """Lets a recipe in the uploaded picture that is of another tab fill the form there."""

        def use(path: str | None, owner: str, kept: Any, event: gr.EventData) -> dict[Any, Any]:
            if event.action != "generate":
                return {forms.opened: ""}
            updates, sentences, wrong = forms.use_file(path, owner, kept)
            return {**updates, self.restored: cards.restored(sentences, wrong=wrong)}

        inputs = [self.picture, self.room.owner, self.kept]
        self.restored.click(use, inputs, [*forms.outputs, self.restored], **QUIET)

    # a run

    def _request(self, path: str | None, owner: str, kept: Any, fresh: bool, *values: Any) -> EditRequest:
        asked = dict(zip(self.fields, values, strict=False))
        asked["seed"] = new_seed() if fresh else asked["seed"]
        source = self.service.picture(path)
        mask = self.area.mask(source.size, *values[len(asked) :])
        parent, picture = self._parent(owner, kept, source)
        return EditRequest(source=source, mask=mask, parent=parent, parent_picture=picture, **asked)

    def _parent(self, owner: str, kept: Any, source: Any) -> tuple[str, int]:
        """What the picture in the form came from: the remembered parent, if it still is just that picture."""
        job, index = _place(kept, "parent")
        steps = chain(self.room.jobs, job, index, owner) if job else ()
        held = steps and steps[-1].record.id == job and begins_with(file_at(self.room.jobs, steps, len(steps)), source)
        return (job, steps[-1].index) if held else ("", 0)

    def _check(
        self, path: str | None, owner: str, kept: Any, fresh: bool, prompt: str, *rest: Any
    ) -> list[dict[str, Any]]:
        """Red words under the field that is missing; of the fields the instruction is the first."""
        fine = gr.validate(True, "")
        words = gr.validate(bool(prompt and prompt.strip()), say("error.no_instruction"))
        return [gr.validate(bool(path), say("error.no_picture")), fine, fine, fine, words, *[fine] * len(rest)]

    # edits of edits

    def _steps(self, owner: str, kept: Any) -> tuple[Step, ...]:
        job, index = _place(kept, "tip")
        return chain(self.room.jobs, job, index, owner) if job else ()

    def _chain(self, owner: str, job: str, kept: Any) -> tuple[str, dict[str, Any]]:
        """The strip once a job was followed to its end; a job that is not on it begins a strip of its own."""
        steps = self._steps(owner, kept)
        if not job or job in [step.record.id for step in steps]:
            return self._strip(steps, job, kept if isinstance(kept, dict) else {}), gr.skip()
        steps = chain(self.room.jobs, job, 0, owner)
        kept = {"tip": [steps[-1].record.id, 0], "parent": _parent_of(steps[-1].record)} if steps else {}
        return self._strip(steps, job, kept), kept

    @staticmethod
    def _strip(steps: tuple[Step, ...], job: str, kept: dict[str, Any]) -> str:
        places = [step.record.id for step in steps]
        at = places.index(job) + 1 if job in places else 0
        return cards.chain_strip(steps, at, _begins(steps, kept))

    def _go_on(self, owner: str, job: str, kept: Any, event: gr.EventData) -> tuple[Any, ...]:
        """The result becomes the picture to edit."""
        path = picture_path(self.room.jobs, job, event.index) if event.action == "edit" else None
        if path is None:
            return (gr.skip(),) * 3
        steps = self._steps(owner, kept)
        if job not in [step.record.id for step in steps[:-1]]:  # the last of the strip, or the first of a new one
            kept = {"tip": [job, event.index]}
            steps = self._steps(owner, kept)
        kept = {**kept, "parent": [job, event.index]}
        return path, kept, self._strip(steps, job, kept)

    def _move(self, owner: str, job: str, kept: Any, event: gr.EventData) -> tuple[Any, ...]:
        """A thumbnail shows its step; Back, Branch and Restart also put its picture into the form."""
        steps = self._steps(owner, kept)
        if not steps:
            return "", *[gr.skip()] * 8
        places = [step.record.id for step in steps]
        now = places.index(job) + 1 if job in places else 0
        at = {"step": event.index, "back": now - 1, "branch": now}.get(event.action, 0)
        at = min(max(at, 0), len(steps))
        path = file_at(self.room.jobs, steps, at) if event.action != "step" else None
        if path:
            kept = {**kept, "parent": list(parent_at(steps, at))}
        shown = steps[at - 1].record.id if at else ""
        place = ("edit", shown, shown, gr.skip(), gr.skip())
        if not at:  # no job stands for the original: it is shown by itself
            place = ("", "", gr.skip(), cards.original(steps[0]), "")
        words = merged(steps) if event.action == "merge" else ""
        return *place, self._strip(steps, shown, kept), kept, path or gr.skip(), words or gr.skip()

    # a picture that comes from outside

    def _uploaded(self, path: str | None, owner: str, job: str, kept: Any) -> tuple[Any, ...]:
        """A new picture is of no chain; one with a recipe of ours fills the form with it."""
        kept = {**(kept if isinstance(kept, dict) else {}), "parent": None}
        told, *filled = self._from_recipe(path, owner)
        return kept, self._strip(self._steps(owner, kept), job, kept), told, *filled

    def _from_recipe(self, path: str | None, owner: str) -> tuple[Any, ...]:
        """What to say of the recipe in a file, then what it makes of New seed and of the fields."""
        fields = self.fields
        nothing = [gr.skip()] * (len(fields) + 1)
        recipe, wrong = settings.recipe_in(path)
        if recipe is None:
            return cards.restored([wrong], wrong=True) if wrong else "", *nothing
        if recipe.kind == "generate":
            return cards.restored([say("restore.other")], [("generate", say("restore.other.use"))]), *nothing
        found = settings.from_recipe(recipe, self.service)
        if found is None:
            return cards.restored([say("restore.kind", kind=recipe.kind)]), *nothing
        known = settings.source_record(self.room.jobs, owner, recipe.source_sha256)
        actions = [("source", say("restore.source.use"))] if known else []
        told = cards.restored([say("restore.done"), *found.notes], actions)
        return told, False, *widgets.filled(fields, found.values)

    def _take_source(self, path: str | None, owner: str, kept: Any, event: gr.EventData) -> tuple[Any, ...]:
        """The picture that an uploaded result was made from, out of this browser's history."""
        recipe, _ = settings.recipe_in(path) if event.action == "source" else (None, "")
        record = settings.source_record(self.room.jobs, owner, recipe.source_sha256) if recipe else None
        source = source_path(self.room.jobs, record) if record else None
        if source is None:
            return (gr.skip(),) * 3
        kept = {**(kept if isinstance(kept, dict) else {}), "parent": _parent_of(record)}
        return source, kept, cards.restored([say("restore.used")])

    def _use_example(self, event: gr.EventData) -> tuple[Any, ...]:
        if not 0 <= event.index < len(self.examples):
            return (gr.skip(),) * 4
        example = self.examples[event.index]
        note = f'<p class="note">{say("example.note")}</p>'
        return str(example.image), example.instruction, widgets.example_view(example), note

    # after a reload

    def _restore(self, owner: str, last: str, draft: str, kept: Any, request: gr.Request) -> tuple[Any, ...]:
        """The last job is on show again, and the form has its picture and settings; a link goes before them."""
        snapshot = self.room.jobs.snapshot(last) if last else None
        record = snapshot.record if snapshot else None
        asked = settings.from_record(record, self.service.defaults) if record else None
        values = {"seed": new_seed(), **(asked.values if asked else {})}
        values |= {"prompt": draft} if draft else {}
        path, job = None, ""
        if record:
            steps = chain(self.room.jobs, *_place(kept, "parent"), owner)
            path = file_at(self.room.jobs, steps, len(steps)) if steps else None
            if path is None:
                path = source_path(self.room.jobs, record)
                kept = {**(kept if isinstance(kept, dict) else {}), "parent": _parent_of(record)}
            job = last
        link = settings.from_query(request.query_params, "edit")
        told = cards.restored([say("restore.link"), *link.notes]) if link else gr.skip()
        values |= link.values if link else {}
        fresh = False if link and "seed" in link.values else gr.skip()
        return job, path or gr.skip(), kept or {}, told, fresh, *widgets.filled(self.fields, values)


def _place(kept: Any, name: str) -> tuple[str, int]:
    """A job and the number of its picture, out of what a browser remembers; ("", 0) for anything else."""
    found = kept.get(name) if isinstance(kept, dict) else None
    if not isinstance(found, (list, tuple)) or len(found) != 2:
        return "", 0
    job, index = found
    return (job, index) if isinstance(job, str) and type(index) is int else ("", 0)


def _parent_of(record: Record) -> list[Any]:
    """What a job's source was a picture of, as it is kept in the browser."""
    return [record.request.get("parent") or "", record.request.get("parent_picture") or 0]


def _begins(steps: tuple[Step, ...], kept: dict[str, Any]) -> int | None:
    """The place on the strip of the picture that the form holds."""
    if kept.get("parent") is None:
        return None
    parent = _place(kept, "parent")
    return next((at for at in range(len(steps) + 1) if parent_at(steps, at) == parent), None)
