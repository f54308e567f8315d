"""The Compare tab: one picture through several tokenizers, with numbers and an error map."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from app import widgets
from app.request import CompareRequest
from app.room import Room, source_path
from app.service import Service
from app.texts import say


class CompareTab:
    """Lays out the tab inside the current Blocks; `wire` connects it."""

    def __init__(self, room: Room, service: Service) -> None:
        self.room, self.service = room, service
        room.add_states()
        with gr.Row(elem_classes="room", equal_height=False):
            with gr.Column(elem_classes="controls", scale=0, min_width=300):
                self.picture = widgets.picture_box("compare-picture")
                self.note = widgets.status_box("compare-note")
                self.tokenizers = gr.CheckboxGroup(
                    ["rpiae"],
                    value=["rpiae"],
                    label=say("tokenizers"),
                    info=say("tokenizers.help"),
                    elem_id="compare-tokenizers",
                )
                room.add_buttons()
            with gr.Column(elem_classes="result", scale=1, min_width=320):
                room.add_result()

    def wire(self, demo: gr.Blocks) -> None:
        """Connects every control of the tab."""
        room = self.room
        room.wire(self._request, [self.picture, self.tokenizers], validator=self._check)
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        self.picture.change(self._describe, self.picture, [self.picture, self.note], **quiet)
        self.picture.clear(lambda: "", None, self.note, **quiet)
        restored = demo.load(self._restore, room.last, [room.job, self.picture, self.tokenizers], **quiet)
        room.follow_after(restored.then)

    def _request(self, path: str | None, names: list[str]) -> CompareRequest:
        return CompareRequest(source=self.service.picture(path), tokenizers=tuple(names))

    @staticmethod
    def _check(path: str | None, names: list[str]) -> list[dict[str, Any]]:
        return [
            gr.validate(bool(path), say("error.no_picture")),
            gr.validate(bool(names), say("error.no_tokenizer")),
        ]

    def _describe(self, path: str | None) -> tuple[Any, Any]:
        if path is None:
            return gr.skip(), gr.skip()
        try:
            return gr.skip(), f'<p class="note">{escape(self.service.describe(path))}</p>'
        except ValueError as fault:
            return None, f'<p class="note wrong">{escape(str(fault))}</p>'

    def _restore(self, last: str) -> tuple[Any, ...]:
        names = self.service.tokenizers()
        snapshot = self.room.jobs.snapshot(last) if last else None
        if snapshot is None:
            return "", gr.skip(), gr.CheckboxGroup(choices=names, value=names[:1])
        chosen = [name for name in snapshot.record.request["tokenizers"] if name in names]
        path = source_path(self.room.jobs, snapshot.record)
        return last, path or gr.skip(), gr.CheckboxGroup(choices=names, value=chosen or names[:1])
