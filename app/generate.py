"""The Generate tab: words in, pictures out."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app import widgets
from app.request import GUIDANCE_MAX, PICTURES_MAX, GenerateRequest, new_seed
from app.room import QUIET, Room, picture_path
from app.service import Service
from app.texts import PROMPTS, say


class GenerateTab:
    """Lays out the tab inside the current Blocks; `wire` connects it."""

    def __init__(self, room: Room, service: Service) -> None:
        self.room, self.service = room, service
        defaults = service.defaults
        with gr.Row(elem_classes="room", equal_height=False):
            with gr.Column(elem_classes="controls", scale=0, min_width=300):
                self.prompt = gr.Textbox(
                    label=say("prompt"),
                    placeholder=say("prompt.placeholder"),
                    lines=3,
                    max_lines=8,
                    elem_id="generate-prompt",
                )
                room.add_buttons()
                self.count = gr.Slider(
                    1,
                    PICTURES_MAX,
                    1,
                    step=1,
                    label=say("count"),
                    info=say("count.help"),
                    elem_id="generate-count",
                )
                self.seed, self.fresh = widgets.seed_row("generate")
                with gr.Accordion(say("more"), open=False, elem_id="generate-more"):
                    self.guidance = widgets.slider("guidance", 0, GUIDANCE_MAX / 2, 0.1, defaults)
                    self.steps = widgets.slider("steps", 1, 100, 1, defaults)
                    self.negative = gr.Textbox(label=say("negative_prompt"), info=say("negative_prompt.help"))
            with gr.Column(elem_classes="result", scale=1, min_width=320):
                room.add_result()
                self.ideas = gr.HTML(
                    widgets.ideas(PROMPTS),
                    elem_id="generate-ideas",
                    js_on_load=widgets.VIEW_JS,
                    apply_default_css=False,
                )

    @property
    def _settings(self) -> list[Any]:
        return [self.prompt, self.negative, self.steps, self.guidance, self.count]

    def wire(self, demo: gr.Blocks, tabs: gr.Tabs, edit_picture: gr.Image) -> None:
        """Connects every control of the tab; `edit_picture` takes a picture that is to be edited."""
        room = self.room
        room.wire(self._request, [self.fresh, self.seed, *self._settings], self.seed, self._check)
        self.ideas.click(self._use_idea, None, self.prompt, **QUIET)
        room.view.click(self._edit_this, room.job, [edit_picture, tabs], **QUIET)
        room.keep_draft(self.prompt)
        restored = demo.load(
            self._restore, [room.last, room.draft], [room.job, self.seed, *self._settings], **QUIET
        )
        room.follow_after(restored.then)

    @staticmethod
    def _request(fresh: bool, seed: float | None, *settings: Any) -> GenerateRequest:
        prompt, negative, steps, guidance, count = settings
        return GenerateRequest(
            prompt=prompt,
            negative_prompt=negative,
            seed=new_seed() if fresh else seed,
            num_inference_steps=steps,
            guidance_scale=guidance,
            count=count,
        )

    @staticmethod
    def _check(fresh: bool, seed: float | None, prompt: str, *rest: Any) -> list[dict[str, Any]]:
        fine = gr.validate(True, "")
        words = gr.validate(bool(prompt and prompt.strip()), say("error.no_prompt"))
        return [fine, fine, words, *[fine] * len(rest)]

    @staticmethod
    def _use_idea(event: gr.EventData) -> Any:
        return PROMPTS[event.index] if 0 <= event.index < len(PROMPTS) else gr.skip()

    def _edit_this(self, job_id: str, event: gr.EventData) -> tuple[Any, Any]:
        path = picture_path(self.room.jobs, job_id, event.index)
        return (path, gr.Tabs(selected="edit")) if path else (gr.skip(), gr.skip())

    def _restore(self, last: str, draft: str) -> tuple[Any, ...]:
        snapshot = self.room.jobs.snapshot(last) if last else None
        if snapshot is None:
            return "", new_seed(), draft or gr.skip(), *[gr.skip()] * (len(self._settings) - 1)
        asked, defaults = snapshot.record.request, self.service.defaults
        return (
            last,
            asked["seed"],
            draft or asked["prompt"],
            asked["negative_prompt"],
            asked["num_inference_steps"] or defaults["num_inference_steps"],
            defaults["guidance_scale"] if asked["guidance_scale"] is None else asked["guidance_scale"],
            asked["count"],
        )
