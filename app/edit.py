"""The Edit tab: a picture and an instruction in, the changed picture beside it out."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app import widgets
from app.examples import Example
from app.request import GUIDANCE_MAX, EditRequest, new_seed
from app.room import QUIET, Room, describe_upload, picture_path, source_path
from app.service import Service
from app.texts import say


class EditTab:
    """Lays out the tab inside the current Blocks; `wire` connects it."""

    def __init__(self, room: Room, service: Service, examples: list[Example]) -> None:
        self.room, self.service, self.examples = room, service, examples
        defaults = service.defaults
        with gr.Row(elem_classes="room", equal_height=False):
            with gr.Column(elem_classes="controls", scale=0, min_width=300):
                self.picture = widgets.picture_box("edit-picture")
                self.note = widgets.status_box("edit-note")
                self.prompt = gr.Textbox(
                    label=say("instruction"),
                    placeholder=say("instruction.placeholder"),
                    lines=2,
                    max_lines=6,
                    elem_id="edit-prompt",
                )
                room.add_buttons()
                self.seed, self.fresh = widgets.seed_row("edit")
                with gr.Accordion(say("more"), open=False, elem_id="edit-more"):
                    self.image_guidance = widgets.slider("image_guidance", 0, GUIDANCE_MAX / 2, 0.1, defaults)
                    self.guidance = widgets.slider("guidance", 0, GUIDANCE_MAX / 2, 0.1, defaults)
                    self.steps = widgets.slider("steps", 1, 100, 1, defaults)
                    self.preserve = gr.Checkbox(True, label=say("preserve"), info=say("preserve.help"))
                    self.negative = gr.Textbox(label=say("negative_prompt"), info=say("negative_prompt.help"))
            with gr.Column(elem_classes="result", scale=1, min_width=320):
                room.add_result()
                self.strip = gr.HTML(
                    widgets.example_strip(examples),
                    elem_id="edit-examples",
                    js_on_load=widgets.VIEW_JS,
                    apply_default_css=False,
                    visible=bool(examples),
                )

    @property
    def _settings(self) -> list[Any]:
        return [self.prompt, self.negative, self.steps, self.guidance, self.image_guidance, self.preserve]

    def wire(self, demo: gr.Blocks) -> None:
        """Connects every control of the tab."""
        room = self.room
        inputs = [self.picture, self.fresh, self.seed, *self._settings]
        room.wire(self._request, inputs, self.seed, self._check)
        describe_upload(self.service, self.picture, self.note, editing=True)
        self.strip.click(
            self._use_example, None, [self.picture, self.prompt, room.view, room.status], **QUIET
        )
        room.view.click(self._go_on, room.job, self.picture, **QUIET)
        room.keep_draft(self.prompt)
        restored = demo.load(
            self._restore,
            [room.last, room.draft],
            [room.job, self.picture, self.seed, *self._settings],
            **QUIET,
        )
        room.follow_after(restored.then)

    def _request(self, path: str | None, fresh: bool, seed: float | None, *settings: Any) -> EditRequest:
        prompt, negative, steps, guidance, image_guidance, preserve = settings
        return EditRequest(
            source=self.service.picture(path),
            prompt=prompt,
            negative_prompt=negative,
            seed=new_seed() if fresh else seed,
            num_inference_steps=steps,
            guidance_scale=guidance,
            image_guidance_scale=image_guidance,
            preserve_unchanged=preserve,
        )

    @staticmethod
    def _check(
        path: str | None, fresh: bool, seed: float | None, prompt: str, *rest: Any
    ) -> list[dict[str, Any]]:
        """Red words under the field that is missing."""
        fine = gr.validate(True, "")
        return [
            gr.validate(bool(path), say("error.no_picture")),
            fine,
            fine,
            gr.validate(bool(prompt and prompt.strip()), say("error.no_instruction")),
            *[fine] * len(rest),
        ]

    def _use_example(self, event: gr.EventData) -> tuple[Any, ...]:
        if not 0 <= event.index < len(self.examples):
            return (gr.skip(),) * 4
        example = self.examples[event.index]
        note = f'<p class="note">{say("example.note")}</p>'
        return str(example.image), example.instruction, widgets.example_view(example), note

    def _go_on(self, job_id: str, event: gr.EventData) -> Any:
        """The result becomes the picture to edit."""
        return picture_path(self.room.jobs, job_id, event.index) or gr.skip()

    def _restore(self, last: str, draft: str) -> tuple[Any, ...]:
        """After a reload: the last job is on show again, and the form has its picture and settings."""
        snapshot = self.room.jobs.snapshot(last) if last else None
        if snapshot is None:
            return "", gr.skip(), new_seed(), draft or gr.skip(), *[gr.skip()] * (len(self._settings) - 1)
        asked, defaults = snapshot.record.request, self.service.defaults
        return (
            last,
            source_path(self.room.jobs, snapshot.record) or gr.skip(),
            asked["seed"],
            draft or asked["prompt"],
            asked["negative_prompt"],
            *(asked[name] or defaults[name] for name in ("num_inference_steps", "guidance_scale")),
            defaults["image_guidance_scale"]
            if asked["image_guidance_scale"] is None
            else asked["image_guidance_scale"],
            asked["preserve_unchanged"],
        )
