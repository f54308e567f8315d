"""The Generate tab: words in, pictures out; with a class-conditional checkpoint a class in place of the words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from app import cards, settings, widgets
from app.batch import WHOLE_INTERVAL
from app.request import CLASS_STEPS, STEPS, GenerateRequest, new_seed
from app.restore import RecipeDrop
from app.room import QUIET, Room, picture_path
from app.service import Service
from app.texts import PROMPTS, say

if TYPE_CHECKING:
    from app.edit import EditTab

FIRST_CLASS = 207  # of ImageNet: the golden retriever, with which papers begin


class GenerateTab:
    """Lays out the tab inside the current Blocks; `wire` connects it."""

    def __init__(self, room: Room, service: Service) -> None:
        self.room, self.service = room, service
        defaults, by_class = service.defaults, service.can("class")
        self.shown = gr.State("")  # the checkpoint that the form is made for
        with gr.Row(elem_classes="room", equal_height=False):
            with gr.Column(elem_classes="controls", scale=0, min_width=300):
                self.notice = widgets.notice_box("generate-notice")
                self.prompt = gr.Textbox(
                    label=say("prompt"),
                    placeholder=say("prompt.placeholder"),
                    lines=3,
                    max_lines=8,
                    visible=not by_class,
                    elem_id="generate-prompt",
                )
                self.label = gr.Dropdown(
                    [],
                    label=say("class_label"),
                    info=say("class_label.help"),
                    filterable=True,
                    visible=by_class,
                    elem_id="generate-class",
                )
                room.add_buttons()
                self.count = widgets.count_slider("generate")
                self.seed, self.fresh = widgets.seed_row("generate")
                with gr.Accordion(say("more"), open=False, elem_id="generate-more"):
                    self.guidance = widgets.slider("guidance", defaults)
                    self.low, self.high = widgets.interval("generate-interval")
                    self.steps = widgets.slider("steps", defaults)
                    self.negative = gr.Textbox(label=say("negative_prompt"), info=say("negative_prompt.help"))
                self.drop = RecipeDrop("generate", fold=True)
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
        return [
            self.prompt,
            self.label,
            self.negative,
            self.steps,
            self.guidance,
            self.low,
            self.high,
            self.count,
        ]

    @property
    def form(self) -> list[Any]:
        """What differs from one checkpoint to another: the outputs of `switched`."""
        return [self.shown, self.notice, self.room.run, self.room.view, self.ideas, *self._settings]

    def wire(self, demo: gr.Blocks, tabs: gr.Tabs, edit: EditTab) -> None:
        """Connects every control of the tab; `edit` takes a picture that is to be edited."""
        room = self.room
        room.wire(self._request, [self.fresh, self.seed, *self._settings], self.seed, self._check)
        self.ideas.click(self._use_idea, None, [self.prompt, room.draft], **QUIET)

        def edit_this(job: str, owner: str, edited: str, kept: Any, event: gr.EventData) -> dict[Any, Any]:
            moved = {edit.picture: self._picture(job, event), tabs: gr.Tabs(selected="edit")}
            return moved | edit.apart(owner, edited, kept)

        inputs = [room.job, room.owner, edit.room.job, edit.kept]
        room.view.click(edit_this, inputs, [edit.picture, tabs, edit.kept, edit.strip], **QUIET)
        room.keep_draft(self.prompt)
        filled = [room.job, self.seed, self.fresh, self.drop.note, *self.form]
        restored = demo.load(self._restore, [room.last, room.draft], filled, **QUIET)
        room.open_after(restored, self._able)

    # the form and the loaded checkpoint

    def switched(self, shown: str, job: str) -> dict[Any, Any]:
        """The form after another checkpoint was loaded, with its settings; nothing when it is the one shown, or the
        page was just opened: `_restore` fills that."""
        if shown in ("", self.service.key):
            return {self.shown: shown}
        found = {part: gr.update(**change) for part, change in self._fitted().items()}
        return found | self._idle(job) | {self.shown: self.service.key}

    def _idle(self, job: str) -> dict[Any, Any]:
        """What stands in the result's place while no job is on show there."""
        words = "empty.generate.class" if self.service.can("class") else "empty.generate"
        return {} if job else {self.room.view: widgets.empty(say(words))}

    def _able(self) -> bool:
        return self.service.can("class") or self.service.can("text")

    def _fitted(self) -> dict[Any, dict[str, Any]]:
        """How each control must look for the loaded checkpoint."""
        service = self.service
        by_class, defaults = service.can("class"), service.defaults
        able = self._able()
        notice = "" if able else widgets.note(say("cannot.generate", can=say(f"can.{service.kind}")))
        words = "class." if by_class else ""
        low, high = CLASS_STEPS if by_class else STEPS
        looks = {
            self.notice: {"value": notice, "visible": not able},
            self.room.run: {"interactive": able},
            self.ideas: {"visible": able and not by_class},
            self.prompt: {"visible": not by_class},
            self.negative: {"visible": not by_class},
            self.label: {"visible": by_class, "value": None},
            self.low: {"visible": by_class, "value": WHOLE_INTERVAL[0]},
            self.high: {"visible": by_class, "value": WHOLE_INTERVAL[1]},
            self.guidance: {
                "label": say(f"{words}guidance"),
                "info": say(f"{words}guidance.help"),
                "value": defaults["guidance_scale"],
            },
            self.steps: {
                "info": say(f"{words}steps.help"),
                "minimum": low,
                "maximum": high,
                "value": defaults["num_inference_steps"],
            },
        }
        if by_class:
            choices = service.class_choices()
            first = FIRST_CLASS if len(choices) > FIRST_CLASS else 0
            looks[self.label] |= {"choices": choices, "value": first}
        return looks

    def _restore(self, last: str, draft: str, request: gr.Request) -> dict[Any, Any]:
        """After a reload: the form fits the checkpoint, the last job is on show again, with its settings; a link's
        settings go before them."""
        looks = self._fitted()
        snapshot = self.room.jobs.snapshot(last) if last else None
        asked = snapshot.record.request if snapshot else {}
        values = self._asked(asked)
        if draft and not self.service.can("class"):
            values[self.prompt] = draft
        for part, value in values.items():
            if value is not None:
                looks.setdefault(part, {})["value"] = value
        found = {part: gr.update(**change) for part, change in looks.items()}
        seed = asked.get("seed", new_seed())
        found |= {self.shown: self.service.key, self.room.job: last if snapshot else "", self.seed: seed}
        found |= self._idle(found[self.room.job])
        link = settings.from_query(request.query_params, "generate")
        if link is None:
            return found
        filled = self.fill(link.values)
        for part, update in filled.items():
            found[part] = {**found.get(part, {}), **update} if isinstance(update, dict) else update
        none = bool(link.values and not filled)  # by class here and from words there, or the other way round
        told = [say("restore.cannot" if none else "restore.link"), *link.notes]
        return found | {self.drop.note: cards.restored(told, wrong=none)}

    def fill(self, values: dict[str, Any]) -> dict[Any, Any]:
        """Puts settings into the form, by a `GenerateRequest`'s names; the seed is then used again. {} when the loaded
        checkpoint has no form for them."""
        names = ("prompt", "negative_prompt", "num_inference_steps", "guidance_scale", "count")
        asked = self._asked(dict.fromkeys(names) | values)
        if not asked:
            return {}
        seed = {self.seed: values["seed"], self.fresh: False} if "seed" in values else {}
        return {part: gr.update(value=value) for part, value in asked.items() if value is not None} | seed

    def _asked(self, asked: dict[str, Any]) -> dict[Any, Any]:
        """The settings of an earlier job that this form has; None where they were left to the checkpoint."""
        by_class = asked.get("class_label") is not None
        if not asked or by_class != self.service.can("class"):
            return {}
        low, high = asked.get("guidance_interval") or WHOLE_INTERVAL
        of_class = {self.label: asked.get("class_label"), self.low: low, self.high: high}
        of_words = {self.prompt: asked["prompt"], self.negative: asked["negative_prompt"]}
        return (of_class if by_class else of_words) | {
            self.steps: asked["num_inference_steps"],
            self.guidance: asked["guidance_scale"],
            self.count: asked["count"],
        }

    # a job

    def _request(self, fresh: bool, seed: float | None, *asked: Any) -> GenerateRequest:
        prompt, label, negative, steps, guidance, low, high, count = asked
        shared = {
            "seed": new_seed() if fresh else seed,
            "num_inference_steps": steps,
            "guidance_scale": guidance,
            "count": count,
        }
        if not self.service.can("class"):
            request = GenerateRequest(prompt=prompt, negative_prompt=negative, **shared)
        elif label is None:
            raise ValueError(say("error.no_class"))
        else:
            name = self.service.class_name(label)
            request = GenerateRequest(prompt=name, class_label=label, guidance_interval=(low, high), **shared)
        self.service.check(request)
        return request

    def _check(self, fresh: bool, seed: float | None, prompt: str, label: Any, *rest: Any) -> list[dict[str, Any]]:
        """Red words under the field that is missing. A page that still has the form of another checkpoint shows the
        other field: there `_request` says it."""
        fine = gr.validate(True, "")
        by_class = self.service.can("class")
        written = by_class or label is not None or bool(prompt and prompt.strip())
        words = gr.validate(written, say("error.no_prompt"))
        chosen = gr.validate(not by_class or label is not None, say("error.no_class"))
        return [fine, fine, words, chosen, *[fine] * len(rest)]

    @staticmethod
    def _use_idea(event: gr.EventData) -> tuple[Any, Any]:
        """The words, into the form and kept as those that are typed are."""
        words = PROMPTS[event.index] if 0 <= event.index < len(PROMPTS) else gr.skip()
        return words, words

    def _picture(self, job_id: str, event: gr.EventData) -> str:
        """The file of the picture whose button was pressed."""
        path = picture_path(self.room.jobs, job_id, event.index)
        if path is None:
            raise gr.Error(say("job.unknown"), print_exception=False)
        return path
