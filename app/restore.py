"""A place to drop a PNG that was made here: its recipe fills the form that it came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from app import cards, widgets
from app.room import QUIET
from app.texts import say

if TYPE_CHECKING:
    from app.forms import Forms


class RecipeDrop:
    """The drop field and, below it, what was filled in and what could not be."""

    def __init__(self, name: str, fold: bool = False) -> None:
        with gr.Accordion(say("restore"), open=not fold, elem_id=f"{name}-restore", elem_classes="restore"):
            self.file = widgets.picture_box(
                f"{name}-drop", label=say("restore"), placeholder=say("restore.drop"), height=130
            )
        self.note = widgets.status_box(f"{name}-restored")

    def wire(self, forms: Forms) -> None:
        """Fills `forms` when a file is dropped."""

        def use(path: str | None, owner: str, kept: Any) -> dict[Any, Any]:
            updates, sentences, wrong = forms.use_file(path, owner, kept)
            return {**updates, self.file: None, self.note: cards.restored(sentences, wrong=wrong)}

        inputs = [self.file, forms.edit.room.owner, forms.edit.kept]
        self.file.upload(use, inputs, [*forms.outputs, self.file, self.note], **QUIET)
