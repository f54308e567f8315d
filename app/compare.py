"""The Compare tab: one picture through several tokenizers. What it shows of them is in `app.comparison_view`."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app import widgets
from app.comparison import RANDOM
from app.request import FITS, CompareRequest
from app.room import QUIET, Room, describe_upload, source_path
from app.service import Service
from app.shelf import Shelf
from app.texts import say, tokenizer_label
from app.weights import WeightsBox

# Ticked where nobody has chosen: what is loaded, and of the study's own, which come with the repository, those that
# the comparison is about.
FIRST = ("rpiae", "compact-rpiae", "compact-sd-vae", "compact-va-vae", "compact-rae")


class CompareTab:
    """Lays out the tab inside the current Blocks; `wire` connects it."""

    def __init__(self, room: Room, service: Service, shelf: Shelf) -> None:
        self.room, self.service = room, service
        with gr.Row(elem_classes="room", equal_height=False):
            with gr.Column(elem_classes="controls", scale=0, min_width=300):
                self.picture = widgets.picture_box("compare-picture")
                self.note = widgets.status_box("compare-note")
                self.tokenizers = gr.CheckboxGroup(
                    [(tokenizer_label("rpiae"), "rpiae")],
                    value=["rpiae"],
                    label=say("tokenizers"),
                    info=say("tokenizers.help"),
                    elem_id="compare-tokenizers",
                )
                room.add_buttons()  # above what few need: on a phone it is in sight without scrolling
                self.prompt = gr.Textbox(
                    label=say("compare.prompt"),
                    info=say("compare.prompt.help"),
                    placeholder=say("instruction.placeholder"),
                    lines=2,
                    max_lines=6,
                    elem_id="compare-prompt",
                )
                self.seed = gr.Number(
                    0, label=say("seed"), info=say("compare.seed.help"), precision=0, elem_id="compare-seed"
                )
                self.fit = gr.Radio(
                    [(say(f"fit.{fit}"), fit) for fit in FITS],
                    value=FITS[0],
                    label=say("fit"),
                    info=say("fit.help"),
                    visible=False,
                    elem_id="compare-fit",
                )
                self.weights = WeightsBox(shelf)
            with gr.Column(elem_classes="result", scale=1, min_width=320):
                room.add_result()

    def wire(self, demo: gr.Blocks) -> None:
        """Connects every control of the tab."""
        room = self.room
        asked = [self.picture, self.tokenizers, self.fit, self.prompt, self.seed]
        room.wire(self._request, asked, validator=self._check)
        describe_upload(self.service, self.picture, self.note, editing=False)
        self.picture.change(self._offer_fit, self.picture, self.fit, **QUIET)
        chips = [self.tokenizers, self.weights.missing]
        self.weights.wire(self._fetched, [self.tokenizers], chips)
        room.keep_draft(self.prompt)
        form = [room.job, self.picture, self.fit, self.prompt, self.seed]
        restored = demo.load(self._restore, [room.last, room.draft], form, **QUIET)
        offered = restored.then(self._offer, room.last, chips, **QUIET)
        room.open_after(offered)

    def _request(
        self, path: str | None, names: list[str], fit: str | None, prompt: str | None, seed: int | None
    ) -> CompareRequest:
        words = {"prompt": prompt or "", "seed": seed or 0}
        if not path and words["prompt"].strip():
            return CompareRequest(None, tuple(names), **words)
        source = self.service.picture(path)
        whole = source.width == source.height  # the choice is hidden, and may be that of a picture before
        return CompareRequest(source, tuple(names), FITS[0] if whole else fit or FITS[0], **words)

    def _offer_fit(self, path: str | None) -> Any:
        """There is a choice where the picture is no square."""
        try:
            return gr.Radio(visible=bool(path) and not self.service.is_square(path))
        except ValueError:  # said beside the picture
            return gr.Radio(visible=False)

    @staticmethod
    def _check(
        path: str | None, names: list[str], fit: str | None, prompt: str | None, seed: int | None
    ) -> list[dict[str, Any]]:
        return [
            gr.validate(bool(path or (prompt or "").strip()), say("error.no_picture")),
            gr.validate(bool(names), say("error.no_tokenizer")),
            *[gr.validate(True, "")] * 3,
        ]

    def _restore(self, last: str, draft: str) -> tuple[Any, ...]:
        """The last comparison is on show again, and the form has its picture and words. What there is to compare comes
        after it: a server that has just begun is still importing, and what is typed meanwhile must stay."""
        snapshot = self.room.jobs.snapshot(last) if last else None
        if snapshot is None:
            return "", gr.skip(), gr.skip(), draft or gr.skip(), gr.skip()
        path = source_path(self.room.jobs, snapshot.record)
        asked = snapshot.record.request
        fit, prompt = gr.Radio(value=asked.get("fit", FITS[0])), draft or asked.get("prompt") or gr.skip()
        return last, path or gr.skip(), fit, prompt, asked.get("seed", 0)

    def _offer(self, last: str) -> tuple[gr.CheckboxGroup, str]:
        """The tokenizers that there are, those of the last comparison ticked, and which are missing."""
        snapshot = self.room.jobs.snapshot(last) if last else None
        asked = snapshot.record.request if snapshot else {}
        return self.chips(asked.get("tokenizers", [])), self.weights.offer()

    def chips(self, chosen: list[str]) -> gr.CheckboxGroup:
        """The tokenizers that there are now, those of `chosen` ticked that are among them, else `FIRST`."""
        names = self.service.tokenizers() + self.service.tokenizers_without_weights()
        choices = [(tokenizer_label(name), name) for name in names]
        ticked = [[name for name in some if name in names] for some in (chosen, FIRST)]
        return gr.CheckboxGroup(choices=choices, value=ticked[0] or ticked[1])

    def _fetched(self, chosen: list[str]) -> tuple[gr.CheckboxGroup, str]:
        """The tokenizers and those that are missing, when weights may have come; what was ticked with random ones is
        ticked with its own."""
        here = self.service.tokenizers()
        chosen = [own if (own := name.removesuffix(RANDOM)) in here else name for name in chosen]
        return self.chips(chosen), self.weights.offer()
