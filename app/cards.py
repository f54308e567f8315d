"""The lists of the page as HTML, every value escaped: the chain of edits, the jobs in line, the history."""

from __future__ import annotations

import time
from collections.abc import Iterable
from html import escape
from typing import Any

from app.chain import MANY, Step, merged
from app.jobs import Snapshot
from app.request import PICTURES_MAX
from app.settings import FIELDS
from app.store import Record
from app.texts import say, tokenizer_label, word_for
from app.views import address

EXPORTED = 200  # jobs in one zip: as many as fit into a link that every proxy lets through

# the chain of edits


def step_name(at: int) -> str:
    """What a place of the chain is called: 0 is the original."""
    return say("chain.step", number=at) if at else say("chain.original")


def chain_strip(steps: tuple[Step, ...], at: int, begins: int | None = None) -> str:
    """Original and results as thumbnails; `at` is the one on show, `begins` the one that the form holds."""
    if not steps:
        return ""
    record = steps[0].record
    shown = [address(record, record.source["view"])]
    shown += [address(step.record, step.picture["view"]) for step in steps]
    items = "".join(_thumb(place, image, place == at, place == begins) for place, image in enumerate(shown))
    name = escape(say("chain.branch.help", name=step_name(at)))
    off = "" if at else " disabled"
    tools = (
        f'<button class="tool" data-action="back"{off}>{say("chain.back")}</button>'
        f'<button class="tool" data-action="branch" title="{name}">{say("chain.branch")}</button>'
        f'<button class="tool" data-action="restart">{say("chain.restart")}</button>'
    )
    hint = ""
    if len(steps) >= MANY:
        words = merged(steps)
        button = f'<button class="tool" data-action="merge">{say("chain.merge")}</button>' if words else ""
        hint = (
            f'<div class="hint"><p class="note">{escape(say("chain.hint", count=len(steps)))}</p>'
            + (f"<p><q>{escape(words)}</q></p>{button}" if words else "")
            + "</div>"
        )
    return (
        f'<section class="chain" aria-label="{say("chain")}"><h2 class="quiet">{say("chain")}</h2>'
        f'<ol>{items}</ol><div class="tools">{tools}</div>{hint}</section>'
    )


def _thumb(place: int, image: str, current: bool, begins: bool) -> str:
    name = step_name(place)
    mark = ' aria-current="step"' if current else ""
    form = f'<span class="from">{say("chain.from")}</span>' if begins else ""
    return (
        f'<li><button class="step" data-action="step" data-index="{place}"{mark}'
        f' aria-label="{escape(say("chain.show", name=name))}"><img src="{image}" alt="" loading="lazy">'
        f"<span>{name}</span></button>{form}</li>"
    )


def original(step: Step) -> str:
    """The picture that a chain began with, alone in the result's place."""
    source = step.record.source
    shape = f"--w:{source['width']};--h:{source['height']}"
    image = f'<img src="{address(step.record, source["view"])}" alt="{say("chain.original")}">'
    return f'<div class="view"><div class="stage" style="{shape}">{image}</div></div>'


# jobs in line


def job_rows(shots: Iterable[Snapshot], shown: Iterable[str]) -> str:
    """An owner's jobs that are not on show in a tab; "" when there is none."""
    shown = {job for job in shown if isinstance(job, str)}  # a browser may send anything
    rows = "".join(_job_row(shot) for shot in shots if shot.record.id not in shown)
    if not rows:
        return ""
    title = say("jobs")
    return f'<section class="jobs" aria-label="{title}"><h2 class="quiet">{title}</h2><ul>{rows}</ul></section>'


def _job_row(shot: Snapshot) -> str:
    record = shot.record
    if record.state == "queued":
        how, remove = say("jobs.place", place=max(shot.ahead, 1)), "jobs.remove"
    elif record.state == "running":
        counted = say("status.step", step=shot.step, steps=shot.steps) if shot.steps else say("jobs.running")
        how, remove = say("status.stopping") if shot.stopping else counted, "jobs.stop"
    else:
        how, remove = state(record), ""
    buttons = [("show", "jobs.show")] + ([("remove", remove)] if remove else [])
    what = title(record)
    tools = "".join(
        f'<button class="tool" data-action="{action}" data-job="{record.id}"'
        f' aria-label="{escape(say("jobs.about", action=say(key), what=what))}">{say(key)}</button>'
        for action, key in buttons
    )
    return (
        f'<li><span class="what">{escape(kind(record))} · {escape(what)}</span>'
        f'<span class="how">{escape(how)}</span><span class="tools">{tools}</span></li>'
    )


# history


def title(record: Record) -> str:
    """A job in few words: its prompt, or the tokenizers it compared."""
    names = record.request.get("tokenizers") or ()
    words = record.request.get("prompt") or ", ".join(tokenizer_label(name) for name in names)
    return words or say("history.untitled")


def kind(record: Record) -> str:
    """The tab that a job is from."""
    name = record.request.get("kind", "")
    return word_for(f"tab.{name}") or name.capitalize()


def state(record: Record) -> str:
    """How a job that has ended went, in one word."""
    return word_for(f"state.{record.state}") or say("state.done")


def history(records: list[Record], total: int, limit: int) -> str:
    """The first `limit` of the jobs that were found among `total`, newest first."""
    if not records:
        return f'<div class="empty"><p>{escape(say("history.none" if total else "history.empty"))}</p></div>'
    counted = {"count": len(records), "all": total}
    words = say("history.count" if len(records) == total else "history.found", **counted)
    ids = [record.id for record in records if record.pictures or record.rows][:EXPORTED]
    what = say("history.export.help" if len(ids) < EXPORTED else "history.export.newest", count=EXPORTED)
    # A link and no form: to submit one is a navigation, which ends the page's connection.
    address_of_all = f"history.zip?jobs={','.join(ids)}"
    link = f'<a class="tool" download href="{address_of_all}" title="{what}">{say("history.export")}</a>'
    export = link if ids else ""
    left = len(records) - limit
    more = f'<button class="tool" data-action="more">{say("history.more", count=left)}</button>' if left > 0 else ""
    cards = "".join(_card(record) for record in records[:limit])
    return (
        f'<div class="history-head"><p class="note">{escape(words)}</p>{export}</div>'
        f'<ul class="cards">{cards}</ul>{more}'
    )


def _card(record: Record) -> str:
    words = escape(title(record))
    images = [picture["view"] for picture in record.pictures]
    shown = (row["reconstruction"] or row.get("drawn") for row in record.rows)
    images = images or list(filter(None, shown))[:PICTURES_MAX]
    if not images and record.source:
        images = [record.source["view"]]
    thumbs = "".join(f'<img src="{address(record, name)}" alt="" loading="lazy">' for name in images)
    marked = "" if record.state == "done" else f'<span class="badge {record.state}">{state(record)}</span>'
    message = "" if record.pictures or record.rows else f'<p class="note">{escape(record.reason)}</p>'
    opened = (
        f'<button class="thumbs n{len(images)}" data-action="open" data-job="{record.id}"'
        f' aria-label="{escape(say("history.open", what=title(record)))}">{thumbs or say("jobs.show")}</button>'
    )
    return (
        f'<li class="job-card">{opened if images or record.rows else "<span></span>"}'
        f'<div class="about"><p class="words">{words}</p><p class="meta">{marked}{_meta(record)}</p>{message}'
        f'<div class="tools">{_tools(record)}</div></div></li>'
    )


def _meta(record: Record) -> str:
    when = time.localtime(record.created)
    exact, words = (time.strftime(form, when) for form in ("%Y-%m-%dT%H:%M:%S%z", say("date")))
    stamp = f'<time datetime="{exact}">{words}</time>'
    seed = record.request.get("seed")
    parts = [escape(kind(record)), stamp] + ([escape(say("status.seed", seed=seed))] if seed is not None else [])
    return " · ".join(parts)


def _tools(record: Record) -> str:
    usable = record.request.get("kind") in (*FIELDS, "compare")
    tools = [_button("use", record, say("history.use"))] if usable else []
    for index, _ in enumerate(record.pictures):
        one = len(record.pictures) == 1
        words = say("history.edit_this") if one else say("history.edit_number", number=index + 1)
        tools.append(_button("edit", record, words, index))
    if record.pictures:
        file = address(record, record.pictures[0]["file"])
        tools.append(f'<a class="tool" download href="{file}">{say("download")}</a>')
    tools.append(
        f'<details class="ask"><summary class="tool">{say("history.delete")}</summary>'
        f"<p>{say('history.delete.ask')}</p>{_button('delete', record, say('history.delete.yes'))}</details>"
    )
    return "".join(tools)


def _button(action: str, record: Record, words: str, index: int = 0) -> str:
    named = f'data-action="{action}" data-job="{record.id}" data-index="{index}"'
    return f'<button class="tool" {named}>{escape(words)}</button>'


def restored(sentences: Iterable[str], actions: Iterable[tuple[str, str]] = (), wrong: bool = False) -> str:
    """What was filled in from a picture or a link and what was not; `actions`: (action, words) as buttons."""
    lines = "".join(f'<p class="note{" wrong" if wrong else ""}">{escape(line)}</p>' for line in sentences)
    buttons = "".join(f'<button class="tool" data-action="{name}">{escape(words)}</button>' for name, words in actions)
    tools = f'<div class="tools">{buttons}</div>' if buttons else ""
    return f'<div class="restored">{lines}{tools}</div>'


def pages(value: Any, step: int) -> int:
    """How many cards to show: a multiple of `step`, whatever a browser sends."""
    return max(step, value) if isinstance(value, int) and not isinstance(value, bool) else step
