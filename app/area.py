"""Where an edit may change the picture, as controls: anywhere, painted, a rectangle, or a mask file."""

from __future__ import annotations

from abc import ABCMeta
from typing import Any

import gradio as gr
from gradio.component_meta import ComponentMeta
from PIL import Image

from app import mask, widgets
from app.room import QUIET
from app.service import Service
from app.texts import say

MODES = ("everywhere", "paint", "rectangle", "file")


def _painted_layers(box: gr.ImageEditor, payload: Any) -> list[str]:
    """The painted layers as they came, decoded by nobody yet."""
    return [widgets.uploaded(layer.path) for layer in payload.layers] if payload else []


# See widgets.SafeImage.
PaintBox = ABCMeta.__new__(
    ComponentMeta,
    "PaintBox",
    (gr.ImageEditor,),
    {"__module__": __name__, "is_template": True, "preprocess": _painted_layers},
)


class AreaBox:
    """The choice and, below it, what the choice needs; off at first."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.mode = gr.Radio(
            [(say(f"area.{mode}"), mode) for mode in MODES], value=MODES[0], label=say("area"), elem_id="edit-area"
        )
        with gr.Column(visible=False, elem_classes="area") as self.paint:
            self.editor = PaintBox(
                label=say("area.paint"),
                type="pil",
                format="png",
                sources=(),
                transforms=(),
                buttons=[],
                layers=gr.LayerOptions(allow_additional_layers=False, layers=[say("area.mask")]),
                brush=gr.Brush(default_size=40, colors=["rgba(255, 0, 255, 0.6)"], color_mode="fixed"),
                height=420,
                elem_id="edit-paint",
            )
            _help("area.paint.help")
        with gr.Column(visible=False, elem_classes="area") as self.rectangle:
            with gr.Row(elem_classes="numbers"):
                self.numbers = [
                    gr.Number(value, label=say(f"area.{name}"), min_width=80)  # `app.mask` says what it may be
                    for name, value in (("left", 25), ("top", 25), ("width", 50), ("height", 50))
                ]
            _help("area.rectangle.help")
        with gr.Column(visible=False, elem_classes="area") as self.files:
            self.file = widgets.picture_box("edit-mask", label=say("area.mask"), height=160)
            _help("area.file.help")

    @property
    def inputs(self) -> list[Any]:
        """What `mask` takes."""
        return [self.mode, self.editor, *self.numbers, self.file]

    def filled(self, file: str | None) -> dict[Any, Any]:
        """The controls for the area of an earlier edit: its mask file, or none for all of the picture."""
        return {self.mode: "file", self.file: file} if file else {self.mode: MODES[0]}

    def wire(self, picture: gr.Image) -> None:
        """Opens what the choice needs; the editor gets a small copy of `picture`, made here."""
        boxes = [self.paint, self.rectangle, self.files, self.editor]
        self.mode.change(self._choose, [self.mode, picture], boxes, **QUIET)
        picture.change(self._renew, [self.mode, picture], self.editor, **QUIET)

    def mask(self, size: tuple[int, int], mode: str, layers: list[str], *rest: Any) -> Image.Image | None:
        """The mask that the controls stand for, of `size`; None lets the whole picture change."""
        *numbers, file = rest
        if mode == "paint":
            return mask.from_layers(layers, size)
        if mode == "rectangle":
            return mask.from_rectangle(numbers, size)
        return mask.from_file(file, size) if mode == "file" else None

    def _choose(self, mode: str, path: str | None) -> tuple[Any, ...]:
        boxes = [gr.Column(visible=mode == name) for name in MODES[1:]]
        return *boxes, self._renew(mode, path)

    def _renew(self, mode: str, path: str | None) -> Any:
        if mode != "paint" or path is None:
            return gr.skip()
        try:
            return mask.shrunk(self.service.picture(path))
        except ValueError:  # said beside the picture
            return gr.skip()


def _help(key: str) -> None:
    gr.HTML(f'<p class="note">{say(key)}</p>', apply_default_css=False)
