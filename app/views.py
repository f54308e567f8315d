"""What the page shows of a job, as HTML: the status line and the picture's place. (Comparisons: `comparison_view`.)

Plain functions from snapshots and records to strings, every value escaped. Pictures are named by addresses relative
to the page, `results/<job id>/<file>`, which `app.studio` serves.
"""

from __future__ import annotations

from html import escape
from typing import Any

from app.jobs import Snapshot
from app.settings import to_query
from app.store import Record
from app.texts import say, word_for
from app.widgets import anew, before_after, card


def address(record: Record, name: str) -> str:
    """Where the page finds one of a job's files."""
    return f"results/{record.id}/{name}"


def duration(seconds: float) -> str:
    """Seconds in few words: "0.4 s", "12 s", "3 min"."""
    if seconds < 10:
        return say("duration.seconds", number=f"{seconds:.1f}")
    if seconds < 100:
        return say("duration.seconds", number=f"{seconds:.0f}")
    return say("duration.minutes", number=f"{seconds / 60:.0f}")


def percent(part: float) -> str:
    """A share in few words; never "0 %" for something."""
    return (
        say("status.changed.little")
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
        facts.append(say("status.seed", seed=seeds[0]) + say("full_stop"))
    elif seeds:
        facts.append(say("status.seeds", first=seeds[0], last=seeds[-1]) + say("full_stop"))
    changed = [picture["changed"] for picture in record.pictures if picture.get("changed") is not None]
    if len(changed) == 1:
        facts.append(
            say("status.changed", percent=percent(changed[0])) + say("full_stop")
            if changed[0]
            else say("status.unchanged")
        )
    return facts


def _line(text: str, kind: str = "line") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if text else ""


# the picture's place


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
        return card(record.reason)
    return anew(f"job-{record.id[:8]}", _edited(record) if record.source else _drawn(record))


def _edited(record: Record) -> str:
    return "".join(_edit(record, index) for index in range(len(record.pictures)))


def _edit(record: Record, index: int) -> str:
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
    go_on = say("go_on" if record.source else "edit_this")
    links = [f'<a class="tool main" download href="{address(record, picture["file"])}">{say("download")}</a>']
    if picture["mask"]:
        links.append(
            f'<a class="tool" download href="{address(record, picture["mask"])}">{say("download.mask")}</a>'
        )
    links.append(f'<button class="tool" data-action="edit" data-index="{index}">{go_on}</button>')
    query = to_query(record, index)
    if query:
        words = f'data-copy="{escape(query)}" data-done="{say("copy_link.done")}"'
        links.append(f'<button class="tool" {words}>{say("copy_link")}</button>')
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
        f"<dt>{escape(word_for(f'recipe.{key}') or key)}</dt><dd>{escape(_short(value))}</dd>"
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
