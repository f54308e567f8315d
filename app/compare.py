"""The Compare tab: one picture through several tokenizers, with numbers and an error map."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app import widgets
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
            with gr.Column(elem_classes="result", scale=1, min_width=320):
                room.add_result()

    def wire(self, demo: gr.Blocks) -> None:
        """Connects every control of the tab."""
        room = self.room
        room.wire(self._request, [self.picture, self.tokenizers], validator=self._check)
        describe_upload(self.service, self.picture, self.note, editing=False)
        restored = demo.load(self._restore, room.last, [room.job, self.picture, self.tokenizers], **QUIET)
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
        names = self.service.tokenizers()
        choices = [(tokenizer_label(name), name) for name in names]
        snapshot = self.room.jobs.snapshot(last) if last else None
        if snapshot is None:
            return "", gr.skip(), gr.CheckboxGroup(choices=choices, value=names[:1])
        chosen = [name for name in snapshot.record.request["tokenizers"] if name in names]
        path = source_path(self.room.jobs, snapshot.record)
        return last, path or gr.skip(), gr.CheckboxGroup(choices=choices, value=chosen or names[:1])
