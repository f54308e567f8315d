"""The parts that tabs share: upload, result and status boxes, sliders, and the before and after view.

What is not Gradio's is HTML from plain functions, every value escaped; `static/studio.js` moves it.
"""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Iterable
from html import escape
from typing import Any

import gradio as gr
from gradio import utils
from gradio.component_meta import ComponentMeta

from app.examples import Example
from app.request import GUIDANCE, PICTURES_MAX, STEPS
from app.texts import say

# The sampler's settings by the key of their words: their field in a request, what that takes, and a slider's step.
SLIDERS = {
    "steps": ("num_inference_steps", STEPS, 1),
    "guidance": ("guidance_scale", GUIDANCE, 0.1),
    "image_guidance": ("image_guidance_scale", GUIDANCE, 0.1),
}

# The delegated click handler of a view: only buttons that carry `data-action` reach the server.
VIEW_JS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-action]');
  if (!button) return;
  const {action, index, job} = button.dataset;
  trigger('click', {action, index: Number(index || 0), job: job || ''});
});
"""
STATUS_JS = "element.setAttribute('role', 'status'); element.setAttribute('aria-live', 'polite');"


def _uploaded_path(box: gr.Image, payload: Any) -> str | None:
    """Where an upload lies."""
    if payload is None:
        return None
    if not payload.path:
        raise gr.Error(say("error.bad_upload"), print_exception=False)
    return uploaded(payload.path)


def uploaded(path: str) -> str:
    """A path that is an upload's, and no other file's of this machine: Gradio looks only at those that a request
    marks as files."""
    if not utils.is_in_or_equal(path, utils.get_upload_folder()):
        raise gr.Error(say("error.not_uploaded"), print_exception=False)
    return str(path)


# An upload whose file is handed on untouched: EXIF, mode and recipe stay readable, and `rpiae.images` judges it.
# Gradio's own `preprocess` opens the file and answers a broken one with a server path or with nothing at all.
# Made past ComponentMeta.__new__, which would write a .pyi file beside this one; an instance would not do, because
# Gradio makes new ones from the class.
SafeImage = ABCMeta.__new__(
    ComponentMeta,
    "SafeImage",
    (gr.Image,),
    {"__module__": __name__, "is_template": True, "preprocess": _uploaded_path},
)


def picture_box(
    elem_id: str, label: str | None = None, placeholder: str | None = None, height: int = 260
) -> gr.Image:
    """The upload of a tab."""
    return SafeImage(
        label=label or say("picture"),
        placeholder=placeholder or say("picture.drop"),
        type="filepath",
        format="png",
        image_mode=None,
        sources=["upload", "clipboard"],
        buttons=["fullscreen"],
        height=height,
        elem_id=elem_id,
    )


def view_box(elem_id: str, value: str) -> gr.HTML:
    """The place of a result; its buttons arrive as `click` events with `action` and `index`."""
    return gr.HTML(
        value, elem_id=elem_id, elem_classes="view-box", js_on_load=VIEW_JS, apply_default_css=False
    )


def status_box(elem_id: str) -> gr.HTML:
    """The status line below a result: one live region that stays while its words change."""
    return gr.HTML(
        "", elem_id=elem_id, elem_classes="status-box", js_on_load=STATUS_JS, apply_default_css=False
    )


def notice_box(elem_id: str) -> gr.HTML:
    """A place for one sentence above a form; it takes no room while there is none."""
    return gr.HTML("", elem_id=elem_id, js_on_load=STATUS_JS, apply_default_css=False, visible=False)


def list_box(elem_id: str, aloud: bool = False) -> gr.HTML:
    """A list whose buttons arrive as `click` events with `action`, `index` and `job`; `aloud`: and that is read out."""
    script = VIEW_JS + (STATUS_JS if aloud else "")
    return gr.HTML("", elem_id=elem_id, js_on_load=script, apply_default_css=False)


def empty(text: str) -> str:
    """A quiet sentence where a result will be."""
    return f'<div class="empty"><p>{escape(text)}</p></div>'


def note(text: str, wrong: bool = False) -> str:
    """One sentence beside controls."""
    return f'<p class="note{" wrong" if wrong else ""}">{escape(text)}</p>'


def card(message: str) -> str:
    """One card in the result's place that says what went wrong and what to do."""
    return (
        f'<div class="card" role="alert"><strong>{say("error.title")}</strong><p>{escape(message)}</p></div>'
    )


def anew(name: str, view: str) -> str:
    """A view that takes the place of the one before as a whole. Where elements are alike, Gradio only changes their
    attributes, and what a person has set in the last view (a divider, a choice, a canvas) would be set in this one."""
    return f'<{name} style="display:contents">{view}</{name}>'


def before_after(
    name: str,
    before: str,
    after: str,
    size: tuple[int, int],
    after_alt: str,
    overlay: str | None = None,
) -> str:
    """Two pictures of one size in one place, with a divider that mouse, finger and arrow keys move.

    `overlay` is shown over the second picture on demand. `name` keeps the choices of several views on one page apart.
    """
    modes = ["split", "before", "after"] + (["mask"] if overlay else [])
    choices = "".join(
        f'<label><input type="radio" name="{name}" value="{mode}"{" checked" if mode == "split" else ""}>'
        f"<span>{say('view.' + mode)}</span></label>"
        for mode in modes
    )
    extra = f'<img class="overlay" src="{overlay}" alt="{escape(say("view.mask_alt"))}">' if overlay else ""
    return (
        f'<div class="view" style="--at:50">'
        f'<div class="stage" style="--w:{size[0]};--h:{size[1]}">'
        f'<img class="after" src="{after}" alt="{escape(after_alt)}">'
        f'<img class="before" src="{before}" alt="{escape(say("view.before_alt"))}">{extra}'
        f'<span class="tag left" aria-hidden="true">{say("view.before")}</span>'
        f'<span class="tag right" aria-hidden="true">{say("view.after")}</span>'
        f'<input type="range" class="divider" min="0" max="100" value="50" title="{escape(say("view.keys"))}"'
        f' aria-label="{escape(say("view.divider"))}"></div>'
        f'<fieldset class="modes"><legend class="aloud">{say("view")}</legend>{choices}</fieldset></div>'
    )


def count_slider(room: str) -> gr.Slider:
    """How many pictures one run makes."""
    return gr.Slider(
        1, PICTURES_MAX, 1, step=1, label=say("count"), info=say("count.help"), elem_id=f"{room}-count"
    )


def filled(fields: dict[str, Any], values: dict[str, Any]) -> dict[Any, Any]:
    """An update for each of a form's fields that there is a value for."""
    return {box: values[name] for name, box in fields.items() if values.get(name) is not None}


def slider(name: str, defaults: dict[str, float]) -> gr.Slider:
    """A setting of the sampler with its help; `name` is the key of its words."""
    field, (low, high), step = SLIDERS[name]
    return gr.Slider(low, high, defaults[field], step=step, label=say(name), info=say(f"{name}.help"))


def interval(elem_id: str) -> tuple[gr.Slider, gr.Slider]:
    """The times between which guidance is on; for drawing by class, so hidden at first."""
    shared = {"step": 0.01, "visible": False}
    help_text = say("interval.help")
    low = gr.Slider(0, 1, 0, label=say("interval.from"), info=help_text, elem_id=f"{elem_id}-from", **shared)
    high = gr.Slider(0, 1, 1, label=say("interval.to"), elem_id=f"{elem_id}-to", **shared)
    return low, high


def seed_row(room: str) -> tuple[gr.Number, gr.Checkbox]:
    """The seed in use, and whether each run takes a new one."""
    with gr.Row(elem_classes="seed-row"):
        seed = gr.Number(
            label=say("seed"), precision=0, elem_id=f"{room}-seed", min_width=150
        )
        fresh = gr.Checkbox(
            True, label=say("seed.new"), info=say("seed.new.help"), elem_id=f"{room}-fresh", min_width=150
        )
    return seed, fresh


def example_strip(examples: list[Example]) -> str:
    """The shipped examples as buttons: before, after, and the words between them."""
    cards = []
    for index, example in enumerate(examples):
        after = f'<img src="examples/{example.result.name}" alt="" loading="lazy">' if example.result else ""
        cards.append(
            f'<button class="example" data-action="example" data-index="{index}"'
            f' aria-label="{escape(say("example.use", instruction=example.instruction))}">'
            f'<span class="pair"><img src="examples/{example.image.name}" alt="" loading="lazy">{after}</span>'
            f"<span>{escape(example.instruction)}</span></button>"
        )
    heading = f'<h2 class="quiet">{say("examples")}</h2>' if cards else ""
    return f'{heading}<div class="examples">{"".join(cards)}</div>'


def example_view(example: Example, number: int) -> str:
    """An example with its finished result."""
    if example.result is None:
        return empty(say("empty.edit"))
    stage = before_after(
        "example",
        before=f"examples/{example.image.name}",
        after=f"examples/{example.result.name}",
        size=example.size,
        after_alt=say("view.after_alt", prompt=example.instruction),
    )
    return anew(f"example-{number}", f'<figure class="done">{stage}</figure>')


def ideas(prompts: Iterable[str]) -> str:
    """Prompts to begin with, as buttons."""
    buttons = "".join(
        f'<button class="idea" data-action="idea" data-index="{index}">{escape(prompt)}</button>'
        for index, prompt in enumerate(prompts)
    )
    return f'<h2 class="quiet">{say("examples")}</h2><div class="ideas">{buttons}</div>'
