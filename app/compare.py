"""The Compare tab: one picture through several tokenizers. What it shows of them is in `app.comparison_view`."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app import widgets
from app.comparison import RANDOM
from app.request import CompareRequest
from app.room import QUIET, Room, describe_upload, source_path
from app.service import Service
from app.texts import say, tokenizer_label


class CompareTab:
    """Lays out the tab inside the current Blocks; `wire` connects it."""

    def __init__(self, room: Room, service: Service) -> None:
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
                room.add_buttons()
                self.missing = widgets.notice_box("compare-missing")
            with gr.Column(elem_classes="result", scale=1, min_width=320):
                room.add_result()

    def wire(self, demo: gr.Blocks) -> None:
        """Connects every control of the tab."""
        room = self.room
        room.wire(self._request, [self.picture, self.tokenizers], validator=self._check)
        describe_upload(self.service, self.picture, self.note, editing=False)
        form = [room.job, self.picture, self.tokenizers, self.missing]
        restored = demo.load(self._restore, room.last, form, **QUIET)
        room.follow_after(restored.then)

    def _request(self, path: str | None, names: list[str]) -> CompareRequest:
        return CompareRequest(source=self.service.picture(path), tokenizers=tuple(names))

    @staticmethod
    def _check(path: str | None, names: list[str]) -> list[dict[str, Any]]:
        return [
            gr.validate(bool(path), say("error.no_picture")),
            gr.validate(bool(names), say("error.no_tokenizer")),
        ]

    def _restore(self, last: str) -> tuple[Any, ...]:
        snapshot = self.room.jobs.snapshot(last) if last else None
        if snapshot is None:
            return "", gr.skip(), self.chips([]), self._missing()
        path = source_path(self.room.jobs, snapshot.record)
        return last, path or gr.skip(), self.chips(snapshot.record.request["tokenizers"]), self._missing()

    def chips(self, chosen: list[str]) -> gr.CheckboxGroup:
        """The tokenizers that there are now, those of `chosen` ticked that are among them, else the first."""
        names = self.service.tokenizers() + self.service.tokenizers_without_weights()
        choices = [(tokenizer_label(name), name) for name in names]
        return gr.CheckboxGroup(choices=choices, value=[name for name in chosen if name in names] or names[:1])

    def _missing(self) -> gr.HTML:
        """Which tokenizers' weights are not here, and what to do about it."""
        names = [name.removesuffix(RANDOM) for name in self.service.tokenizers_without_weights()]
        words = say("tokenizers.missing", names=", ".join(tokenizer_label(name) for name in names))
        return gr.HTML(widgets.note(words), visible=bool(names))
