"""The Edit tab: a picture and an instruction in, the changed picture beside it out, and edits of edits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from app import cards, settings, widgets
from app.area import AreaBox
from app.chain import SOURCE, Step, begins_with, chain, file_at, merged, origin, place_at
from app.examples import Example
from app.request import EditRequest, new_seed
from app.room import QUIET, Room, describe_upload, picture_path, source_path
from app.service import Service
from app.store import Record
from app.texts import say

if TYPE_CHECKING:
    from app.forms import Forms


class EditTab:
    """Lays out the tab inside the current Blocks; `wire` connects it.

    `kept` is what the browser remembers of the chain: {"tip": [job, picture], "parent": [job, picture] or None}.
    The tip is the chain's last picture; the parent is the picture that the form holds, and None where that is of no
    chain yet: a job that is run then makes it the picture that it began with, [job, SOURCE].
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
                self.restored = widgets.list_box("edit-restored", aloud=True)
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
                    self.image_guidance = widgets.slider("image_guidance", defaults)
                    self.guidance = widgets.slider("guidance", defaults)
                    self.steps = widgets.slider("steps", defaults)
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
    def filling(self) -> list[Any]:
        """What `fill` may fill."""
        return [self.picture, self.kept, *self.fields.values(), self.area.mode, self.area.file]

    def fill(
        self, values: dict[str, Any], record: Record | None = None, kept: Any = None, area: bool = True
    ) -> dict[Any, Any]:
        """Puts settings into the form, by an `EditRequest`'s names, and with `record` the picture that this job was
        given; `area`: and where it might change it, else anywhere."""
        updates, jobs = widgets.filled(self.fields, values), self.room.jobs
        source = source_path(jobs, record) if record else None
        if source is None:
            return updates
        mask = jobs.store.file(record.id, record.mask) if area and record.mask else None
        taken = {self.picture: source, self.kept: changed(kept, parent=list(origin(record)))}
        return updates | taken | self.area.filled(str(mask) if mask else None)

    @property
    def form(self) -> list[Any]:
        """What differs from one checkpoint to another: the outputs of `switched`."""
        return [self.shown, self.notice, self.room.run, self.steps, self.guidance, self.image_guidance]

    def switched(self, shown: str) -> tuple[Any, ...]:
        """The form after another checkpoint was loaded, with its settings; a page just opened keeps those it has."""
        service = self.service
        if shown == service.key:
            return shown, *[gr.skip()] * 5
        able, defaults = self._able(), service.defaults
        notice = "" if able else widgets.note(say("cannot.edit", can=say(f"can.{service.kind}")))
        names = ("num_inference_steps", "guidance_scale", "image_guidance_scale")
        values = [defaults[name] if shown and able else gr.skip() for name in names]
        run = gr.Button(interactive=able) if shown else gr.skip()  # else its form may not be filled yet
        return service.key, gr.HTML(notice, visible=not able), run, *values

    def _able(self) -> bool:
        return self.service.can("edit")

    def wire(self, demo: gr.Blocks) -> None:
        """Connects every control of the tab."""
        room = self.room
        place = [room.owner, room.job, self.kept]
        room.after.append((self._chain, place, [self.strip, self.kept]))
        fields = list(self.fields.values())
        inputs = [self.picture, room.owner, self.kept, self.fresh, *fields, *self.area.inputs]
        room.wire(self._request, inputs, self.seed, self._check, began=(self._began, self.kept))
        self.area.wire(self.picture)
        describe_upload(self.service, self.picture, self.note, editing=True)
        uploaded = [self.kept, self.strip, self.restored, self.fresh, room.draft, *fields]
        self.picture.upload(self._uploaded, [self.picture, *place, self.prompt], uploaded, **QUIET)
        example = [self.picture, self.kept, self.strip, self.prompt, room.draft, room.view, room.status]
        self.shipped.click(self._use_example, place, example, **QUIET)
        room.view.click(self._go_on, place, [self.picture, self.kept, self.strip], **QUIET)
        opened = gr.State("")
        shown = [opened, room.job, room.last, room.view, room.status]
        self.moved = self.strip.click(
            self._move,
            place,
            [*shown, self.strip, self.kept, self.picture, self.prompt, room.draft],
            trigger_mode="always_last",
            **QUIET,
        )
        room.follow_opened_after(self.moved.success, opened, then=False)  # the strip is as it must be already
        room.keep_draft(self.prompt)
        restored = demo.load(
            self._restore,
            [room.owner, room.last, room.draft, self.kept],
            [room.job, self.restored, self.fresh, *self.filling],
            **QUIET,
        )
        room.open_after(restored, self._able)

    def use_elsewhere(self, forms: Forms) -> None:
        """Connects what is offered for the recipe in an uploaded picture: its settings, here or in the tab that they
        are of, and the picture that it was made from."""

        def use(path: str | None, owner: str, kept: Any, event: gr.EventData) -> dict[Any, Any]:
            if event.action == "settings":
                return self._from_recipe(path, owner)
            if event.action == "source":
                return self._take_source(path, owner, kept)
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
        steps = chain(self.room.jobs, job, index, owner) if index != SOURCE else ()
        held = steps and steps[-1].record.id == job and begins_with(file_at(self.room.jobs, steps, len(steps)), source)
        return (job, steps[-1].index) if held else ("", 0)

    def _began(self, job: str, request: EditRequest, path: str | None, owner: str, kept: Any, *rest: Any) -> Any:
        """A picture that is of no chain is from now on the one that this job began with."""
        return gr.skip() if request.parent else changed(kept, parent=[job, SOURCE])

    def _check(
        self, path: str | None, owner: str, kept: Any, fresh: bool, prompt: str, *rest: Any
    ) -> list[dict[str, Any]]:
        """Red words under the field that is missing; of the fields the instruction is the first."""
        fine = gr.validate(True, "")
        words = gr.validate(bool(prompt and prompt.strip()), say("error.no_instruction"))
        return [gr.validate(bool(path), say("error.no_picture")), fine, fine, fine, words, *[fine] * len(rest)]

    # edits of edits

    def _steps(self, owner: str, kept: Any) -> tuple[Step, ...]:
        return chain(self.room.jobs, *_place(kept, "tip"), owner)

    def _held(self, owner: str, kept: Any) -> str | None:
        """The file of the picture that the form holds; None where it is of no chain, or gone."""
        job, index = _place(kept, "parent")
        if index == SOURCE:
            snapshot = self.room.jobs.snapshot(job)
            mine = snapshot is not None and owner and snapshot.record.owner == owner
            return source_path(self.room.jobs, snapshot.record) if mine else None
        steps = chain(self.room.jobs, job, index, owner)
        return file_at(self.room.jobs, steps, len(steps)) if steps and steps[-1].record.id == job else None

    def _chain(self, owner: str, job: str, kept: Any) -> tuple[str, Any]:
        """The strip once a job was followed to its end; a job that is not on it begins a strip of its own. What the
        form holds is as it was: this may be an old job that was opened."""
        steps = self._steps(owner, kept)
        own = () if job in [step.record.id for step in steps] else chain(self.room.jobs, job, 0, owner)
        if not own or own[-1] in steps:  # it is on the strip, or would have gone on from it and has no picture
            return self._strip(steps, job, kept), gr.skip()
        kept = changed(kept, tip=list(place_at(own, len(own))))
        return self._strip(own, job, kept), kept

    @staticmethod
    def _strip(steps: tuple[Step, ...], job: str, kept: Any) -> str:
        places = [step.record.id for step in steps]
        at = places.index(job) + 1 if job in places else 0
        return cards.chain_strip(steps, at, _begins(steps, kept))

    def apart(self, owner: str, job: str, kept: Any) -> dict[Any, Any]:
        """The chain as it is when another picture comes into the form, which is of none."""
        kept = changed(kept, parent=None)
        return {self.kept: kept, self.strip: self._strip(self._steps(owner, kept), job, kept)}

    def _go_on(self, owner: str, job: str, kept: Any, event: gr.EventData) -> tuple[Any, ...]:
        """The result becomes the picture to edit."""
        if event.action != "edit":
            return (gr.skip(),) * 3
        path = picture_path(self.room.jobs, job, event.index)
        if path is None:
            raise gr.Error(say("job.unknown"), print_exception=False)
        steps = self._steps(owner, kept)
        if job not in [step.record.id for step in steps[:-1]]:  # the last of the strip, or the first of a new one
            kept = changed(kept, tip=[job, event.index])
            steps = self._steps(owner, kept)
        kept = changed(kept, parent=[job, event.index])
        return path, kept, self._strip(steps, job, kept)

    def _move(self, owner: str, job: str, kept: Any, event: gr.EventData) -> tuple[Any, ...]:
        """A thumbnail shows its step; Back, Branch and Restart also put its picture into the form."""
        steps = self._steps(owner, kept)
        if not steps:
            return "", *[gr.skip()] * 9
        places = [step.record.id for step in steps]
        now = places.index(job) + 1 if job in places else 0
        at = {"step": event.index, "back": now - 1, "branch": now}.get(event.action, 0)
        at = min(max(at, 0), len(steps))
        path = file_at(self.room.jobs, steps, at) if event.action != "step" else None
        if path:
            kept = changed(kept, parent=list(place_at(steps, at)))
        shown = steps[at - 1].record.id if at else ""
        place = ("edit", shown, shown, gr.skip(), gr.skip())
        if not at:  # no job stands for the original: it is shown by itself
            place = ("", "", gr.skip(), cards.original(steps[0]), "")
        words = (merged(steps) if event.action == "merge" else "") or gr.skip()
        return *place, self._strip(steps, shown, kept), kept, path or gr.skip(), words, words

    # a picture that comes from outside

    def _uploaded(self, path: str | None, owner: str, job: str, kept: Any, prompt: str | None) -> dict[Any, Any]:
        """A new picture is of no chain; one with a recipe of ours fills the form with it or, where words stand there
        already, offers to."""
        written = bool((prompt or "").strip())
        return self.apart(owner, job, kept) | self._from_recipe(path, owner, ask=written)

    def _from_recipe(self, path: str | None, owner: str, ask: bool = False) -> dict[Any, Any]:
        """What to say of the recipe in a file, and what it makes of the form; nothing yet with `ask`."""
        recipe, wrong = settings.recipe_in(path)
        if recipe is None:
            return {self.restored: cards.restored([wrong], wrong=True) if wrong else ""}
        if recipe.kind == "generate":
            return {self.restored: cards.restored([say("restore.other")], [("generate", say("restore.other.use"))])}
        found = settings.from_recipe(recipe, self.service)
        if found is None:
            return {self.restored: cards.restored([say("restore.kind", kind=recipe.kind)])}
        if ask:
            return {self.restored: cards.restored([say("restore.here")], [("settings", say("restore.here.use"))])}
        known = settings.source_record(self.room.jobs, owner, recipe.source_sha256)
        actions = [("source", say("restore.source.use"))] if known else []
        told = {self.restored: cards.restored([say("restore.done"), *found.notes], actions), self.fresh: False}
        return self.fill(found.values) | self.room.drafted(found.values.get("prompt")) | told

    def _take_source(self, path: str | None, owner: str, kept: Any) -> dict[Any, Any]:
        """The picture that an uploaded result was made from, out of this browser's history, and where it was allowed to
        change."""
        recipe, _ = settings.recipe_in(path)
        sums = (recipe.source_sha256, recipe.mask_sha256) if recipe else (None, None)
        record = settings.source_record(self.room.jobs, owner, *sums)
        same = record is not None and settings.has_mask(record, sums[1])
        updates = self.fill({}, record, kept, area=same)
        if not updates:
            return {self.restored: gr.skip()}
        missing = [say("restore.mask")] if sums[1] and not same else []
        return updates | {self.restored: cards.restored([say("restore.used"), *missing])}

    def _use_example(self, owner: str, job: str, kept: Any, event: gr.EventData) -> dict[Any, Any]:
        if not 0 <= event.index < len(self.examples):
            return {self.prompt: gr.skip()}
        example = self.examples[event.index]
        filled = {self.picture: str(example.image), self.prompt: example.instruction}
        shown = {self.room.view: widgets.example_view(example, event.index)}
        shown |= {self.room.status: f'<p class="note">{say("example.note")}</p>'}
        return filled | self.room.drafted(example.instruction) | shown | self.apart(owner, job, kept)

    # after a reload

    def _restore(self, owner: str, last: str, draft: str, kept: Any, request: gr.Request) -> dict[Any, Any]:
        """The last job is on show again, and the form has what that was asked and the picture that it held. Words that
        were not sent go before its own, and a link's settings before both."""
        snapshot = self.room.jobs.snapshot(last) if last else None
        record = snapshot.record if snapshot else None
        asked = settings.from_record(record, self.service.defaults) if record else None
        link = settings.from_query(request.query_params, "edit")
        values = {"seed": new_seed(), **(asked.values if asked else {}), **({"prompt": draft} if draft else {})}
        values |= link.values if link else {}
        found = {self.room.job: last if record else "", **self.fill(values, record, kept)}
        if held := self._held(owner, kept):
            found |= {self.picture: held, self.kept: kept}
        if link:
            found |= {self.restored: cards.restored([say("restore.link"), *link.notes])}
            found |= {self.fresh: False} if "seed" in link.values else {}
        return found


def changed(kept: Any, **parts: Any) -> dict[str, Any]:
    """What a browser remembers of the chain, with other parts; it may send anything."""
    return {**(kept if isinstance(kept, dict) else {}), **parts}


def _place(kept: Any, name: str) -> tuple[str, int]:
    """A job and the number of its picture, out of what a browser remembers; ("", 0) for anything else."""
    found = kept.get(name) if isinstance(kept, dict) else None
    if not isinstance(found, (list, tuple)) or len(found) != 2:
        return "", 0
    job, index = found
    return (job, index) if isinstance(job, str) and type(index) is int else ("", 0)


def _begins(steps: tuple[Step, ...], kept: Any) -> int | None:
    """The place on the strip of the picture that the form holds."""
    parent = _place(kept, "parent")
    return next((at for at in range(len(steps) + 1) if steps and place_at(steps, at) == parent), None)
