"""What the page shows of a job, as HTML: the picture's place, the status line, tables and cards.

Plain functions from snapshots to strings, every value escaped, and the few controls that tabs share.
Pictures are named by addresses relative to the page, `results/<job id>/<file>`, which `app.studio` serves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from typing import Any

import gradio as gr

from app.examples import Example
from app.jobs import Snapshot
from app.store import Record
from app.texts import say

# The delegated click handler of a view: only buttons that carry `data-action` reach the server.
VIEW_JS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-action]');
  if (button) trigger('click', {action: button.dataset.action, index: Number(button.dataset.index || 0)});
});
"""
STATUS_JS = "element.setAttribute('role', 'status'); element.setAttribute('aria-live', 'polite');"


def picture_box(elem_id: str) -> gr.Image:
    """An upload whose file is handed on untouched: EXIF, mode and recipe stay readable, `rpiae.images` judges it.

    Gradio's own `preprocess` opens the file and answers a broken one with a server path or with nothing at all.
    (It is replaced on the instance: a subclass would make Gradio write a .pyi file beside this one.)
    """
    box = gr.Image(
        label=say("picture"),
        placeholder=say("picture.drop"),
        type="filepath",
        format="png",
        image_mode=None,
        sources=["upload", "clipboard"],
        buttons=["fullscreen"],
        height=260,
        elem_id=elem_id,
    )
    box.preprocess = _uploaded_path
    return box


def _uploaded_path(payload: Any) -> str | None:
    """Where an upload lies. (Gradio has made sure that it is an upload, and no other file of this machine.)"""
    if payload is None:
        return None
    if not payload.path:
        raise gr.Error(say("error.bad_upload"), print_exception=False)
    return str(payload.path)


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


def address(record: Record, name: str) -> str:
    """Where the page finds one of a job's files."""
    return f"results/{record.id}/{name}"


def duration(seconds: float) -> str:
    """Seconds in few words: "0.4 s", "12 s", "3 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def percent(part: float) -> str:
    """A share in few words; never "0 %" for something."""
    return (
        "less than 0.1 %"
        if 0 < part < 0.001
        else f"{100 * part:.1f} %"
        if part < 0.1
        else f"{100 * part:.0f} %"
    )


# the status line


def status(snapshot: Snapshot) -> str:
    """One line that says how a job stands. Numbers that change with every step are not read out."""
    record = snapshot.record
    if record.state == "queued":
        return _line(_queued(snapshot))
    if record.state == "running":
        return _running(snapshot)
    if record.state in ("failed", "interrupted") or not (record.pictures or record.rows):
        return ""  # the card in the picture's place says it
    parts = []
    if record.state == "stopped":
        parts.append(say("status.stopped", step=record.stopped_at, steps=snapshot.steps or "?"))
        parts.append(say("status.partial"))
    else:
        parts.append(say("status.done", seconds=duration(record.seconds)))
    parts += _facts(record)
    return _line(" ".join(parts)) + "".join(_line(note, "note") for note in record.notes)


def _queued(snapshot: Snapshot) -> str:
    if not snapshot.ahead:
        return say("status.next")
    if snapshot.eta is None:
        return say("status.queued", ahead=snapshot.ahead)
    return say("status.queued.eta", ahead=snapshot.ahead, eta=duration(snapshot.eta))


def _running(snapshot: Snapshot) -> str:
    if snapshot.stopping:
        return _line(say("status.stopping"))
    if snapshot.loading:
        return _line(say("status.loading")) + "<progress></progress>"
    if not snapshot.step:
        return _line(say("status.starting")) + "<progress></progress>"
    counted = say("status.step", step=snapshot.step, steps=snapshot.steps)
    if snapshot.eta is not None and snapshot.eta >= 1:
        counted += " · " + say("status.left", eta=duration(snapshot.eta))
    done = f'max="{snapshot.steps}" value="{snapshot.step}" aria-label="{escape(say("status.running"))}"'
    return (
        f'<span class="aloud">{say("status.running")}</span>'
        f'<p class="line" aria-hidden="true" data-percent="{round(100 * snapshot.step / snapshot.steps)}">{counted}</p>'
        f"<progress {done}></progress>"
    )


def _facts(record: Record) -> list[str]:
    """What is worth knowing of a finished job: its seeds, and how much an edit changed."""
    seeds = [picture["seed"] for picture in record.pictures if picture.get("seed") is not None]
    facts = []
    if len(seeds) == 1:
        facts.append(say("status.seed", seed=seeds[0]) + ".")
    elif seeds:
        facts.append(say("status.seeds", first=seeds[0], last=seeds[-1]) + ".")
    changed = [picture["changed"] for picture in record.pictures if picture.get("changed") is not None]
    if len(changed) == 1:
        facts.append(
            say("status.changed", percent=percent(changed[0])) + "."
            if changed[0]
            else say("status.unchanged")
        )
    return facts


def _line(text: str, kind: str = "line") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if text else ""


# the picture's place


def empty(text: str) -> str:
    """A quiet sentence where a result will be."""
    return f'<div class="empty"><p>{escape(text)}</p></div>'


def card(message: str) -> str:
    """One card in the result's place that says what went wrong and what to do."""
    return (
        f'<div class="card" role="alert"><strong>{say("error.title")}</strong><p>{escape(message)}</p></div>'
    )


def working(snapshot: Snapshot) -> str:
    """While a job runs: its newest preview, or the source, in a stage of the final shape."""
    record = snapshot.record
    source = record.source
    width, height = (source["width"], source["height"]) if source else (1, 1)
    image = snapshot.preview or (address(record, source["view"]) if source else "")
    shown = f'<img src="{image}" alt="{escape(say("view.preview_alt"))}">' if image else ""
    state = "preview" if snapshot.preview else "waiting"
    return (
        f'<div class="view"><div class="stage {state}" style="--w:{width};--h:{height}">{shown}</div></div>'
    )


def result(record: Record) -> str:
    """The finished place of an edit or of generated pictures."""
    if not record.pictures:
        return card(record.message)
    if record.source:
        return "".join(_edited(record, index) for index in range(len(record.pictures)))
    return _drawn(record)


def _edited(record: Record, index: int) -> str:
    picture = record.pictures[index]
    stage = before_after(
        f"v{record.id[:8]}{index}",
        before=address(record, record.source["view"]),
        after=address(record, picture["view"]),
        size=(picture["width"], picture["height"]),
        after_alt=say("view.after_alt", prompt=record.request["prompt"]),
        overlay=address(record, picture["overlay"]) if picture["overlay"] else None,
    )
    return f'<figure class="done">{stage}{_tools(record, index)}</figure>'


def _drawn(record: Record) -> str:
    alt = escape(say("view.after_alt", prompt=record.request["prompt"]))
    figures = []
    for index, picture in enumerate(record.pictures):
        shape = f"--w:{picture['width']};--h:{picture['height']}"
        image = f'<img src="{address(record, picture["view"])}" alt="{alt}">'
        figures.append(
            f'<figure class="done"><div class="view"><div class="stage" style="{shape}">{image}</div></div>'
            f"{_tools(record, index)}</figure>"
        )
    return f'<div class="pictures n{len(figures)}">{"".join(figures)}</div>'


def _tools(record: Record, index: int) -> str:
    """Below a picture: download, go on from it, its recipe."""
    picture = record.pictures[index]
    links = [f'<a class="tool main" download href="{address(record, picture["file"])}">{say("download")}</a>']
    if picture["mask"]:
        links.append(
            f'<a class="tool" download href="{address(record, picture["mask"])}">{say("download.mask")}</a>'
        )
    links.append(f'<button class="tool" data-action="edit" data-index="{index}">{say("edit_this")}</button>')
    if len(record.pictures) > 1:
        links.append(f'<span class="seed">{say("status.seed", seed=picture["seed"])}</span>')
    return (
        f'<figcaption><div class="tools">{"".join(links)}</div>{recipe(picture.get("recipe"))}</figcaption>'
    )


def recipe(plain: dict[str, Any] | None) -> str:
    """The recipe of a picture, folded."""
    if not plain:
        return ""
    rows = "".join(
        f"<dt>{escape(key.replace('_', ' '))}</dt><dd>{escape(_short(value))}</dd>"
        for key, value in plain.items()
        if value not in (None, "", {})
    )
    return (
        f'<details class="recipe"><summary>{say("recipe")}</summary>'
        f"<p>{say('recipe.inside')}</p><dl>{rows}</dl></details>"
    )


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    return str(value)


def before_after(
    name: str,
    before: str,
    after: str,
    size: tuple[int, int],
    after_alt: str,
    overlay: str | None = None,
    error: str | None = None,
) -> str:
    """Two pictures of one size in one place, with a divider that mouse, finger and arrow keys move.

    `overlay` is shown over the second picture on demand, `error` in place of both. `name` keeps the choices of
    several views on one page apart.
    """
    modes = ["split", "before", "after"] + (["mask"] if overlay else []) + (["error"] if error else [])
    choices = "".join(
        f'<label><input type="radio" name="{name}" value="{mode}"{" checked" if mode == "split" else ""}>'
        f"<span>{say('view.' + mode)}</span></label>"
        for mode in modes
    )
    extra = f'<img class="overlay" src="{overlay}" alt="{escape(say("view.mask_alt"))}">' if overlay else ""
    gain = ""
    if error:
        extra += f'<img class="error" src="{error}" alt="{escape(say("view.error"))}">'
        gain = (
            f'<label class="gain"><span>{say("view.gain", gain=5)}</span>'
            '<input type="range" class="gain-range" min="1" max="20" value="5"></label>'
        )
    return (
        f'<div class="view" style="--at:50;--gain:5">'
        f'<div class="stage" style="--w:{size[0]};--h:{size[1]}">'
        f'<img class="after" src="{after}" alt="{escape(after_alt)}">'
        f'<img class="before" src="{before}" alt="{escape(say("view.before_alt"))}">{extra}'
        f'<span class="tag left" aria-hidden="true">{say("view.before")}</span>'
        f'<span class="tag right" aria-hidden="true">{say("view.after")}</span>'
        f'<input type="range" class="divider" min="0" max="100" value="50" title="{escape(say("view.keys"))}"'
        f' aria-label="{escape(say("view.divider"))}"></div>'
        f'<fieldset class="modes"><legend class="aloud">{say("view")}</legend>{choices}</fieldset>{gain}</div>'
    )


# comparing


def comparison(record: Record) -> str:
    """The table of a comparison and, below it, one view for each tokenizer that worked."""
    if not record.rows:
        return card(record.message) if record.finished else ""
    views = "".join(
        _reconstructed(record, index) for index, row in enumerate(record.rows) if row["reconstruction"]
    )
    source = record.source
    size = say("table.size", width=source["width"], height=source["height"])
    return f'{table(record.rows)}<p class="note">{size} {say("table.help")}</p><div class="pictures">{views}</div>'


def _reconstructed(record: Record, index: int) -> str:
    row = record.rows[index]
    stage = before_after(
        f"c{record.id[:8]}{index}",
        before=address(record, record.source["view"]),
        after=address(record, row["reconstruction"]),
        size=(record.source["width"], record.source["height"]),
        after_alt=row["name"],
        error=address(record, row["error_map"]),
    )
    return f'<figure class="done"><h3>{escape(row["name"])}</h3>{stage}</figure>'


def table(rows: Iterable[dict[str, Any]]) -> str:
    """The numbers of a comparison; a tokenizer that failed keeps its row with the reason."""
    columns = ("psnr", "ssim", "lpips", "latent", "compression", "encode", "decode", "parameters")
    head = "".join(f'<th scope="col">{say("table." + column)}</th>' for column in ("tokenizer", *columns))
    body = "".join(_row(row, len(columns)) for row in rows)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _row(row: dict[str, Any], columns: int) -> str:
    name = f'<th scope="row">{escape(row["name"])}</th>'
    if row["error"]:
        return f'<tr>{name}<td colspan="{columns}" class="failed">{escape(row["error"])}</td></tr>'
    cells = (
        _number(row["psnr"], "{:.2f}"),
        _number(row["ssim"], "{:.4f}"),
        _number(row["lpips"], "{:.4f}"),
        " × ".join(str(size) for size in row["latent_shape"]),
        _number(row["compression"], "{:.0f} ×"),
        _number(row["encode_ms"], "{:.0f}"),
        _number(row["decode_ms"], "{:.0f}"),
        _number(row["parameters"] and row["parameters"] / 1e6, "{:.1f} M"),
    )
    return f"<tr>{name}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else "∞" if math.isinf(value) else form.format(value)


# controls and examples


def slider(name: str, low: float, high: float, step: float, defaults: dict[str, float]) -> gr.Slider:
    """A setting of the sampler with its help; `name` is the key of its words."""
    setting = {
        "steps": "num_inference_steps",
        "guidance": "guidance_scale",
        "image_guidance": "image_guidance_scale",
    }
    return gr.Slider(low, high, defaults[setting[name]], step=step, label=say(name), info=say(f"{name}.help"))


def seed_row(room: str) -> tuple[gr.Number, gr.Checkbox]:
    """The seed in use, and whether each run takes a new one."""
    with gr.Row(elem_classes="seed-row"):
        seed = gr.Number(
            label=say("seed"), info=say("seed.help"), precision=0, elem_id=f"{room}-seed", min_width=150
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


def example_view(example: Example) -> str:
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
    return f'<figure class="done">{stage}</figure>'


def ideas(prompts: Iterable[str]) -> str:
    """Prompts to begin with, as buttons."""
    buttons = "".join(
        f'<button class="idea" data-action="idea" data-index="{index}">{escape(prompt)}</button>'
        for index, prompt in enumerate(prompts)
    )
    return f'<h2 class="quiet">{say("examples")}</h2><div class="ideas">{buttons}</div>'
