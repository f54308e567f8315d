"""What the page shows of a comparison: the numbers, and three ways to look at the pictures.

Side by side, with one place enlarged in all of them; two behind a divider; and two without their names. Plain functions
from records to HTML, every value escaped; `static/compare.js` moves it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from html import escape
from typing import Any

from app.comparison_files import KINDS, file_name
from app.store import Record
from app.texts import say, tokenizer_label
from app.views import address, duration
from app.widgets import anew, card

Row = dict[str, Any]
COLUMNS = ("size", "psnr", "ssim", "lpips", "latent", "compression", "encode", "decode", "parameters", "drawn")
OF_PICTURE = ("psnr", "ssim", "lpips", "encode", "decode")  # columns that there are only when there is a picture
BEST = {"psnr": max, "ssim": max, "lpips": min}  # which value of a column is set in bold
LAYERS = {"reconstruction": "reconstruction", "error": "error_map", "latent": "latent_map"}  # shown: in the record
ZOOM, ZOOM_MOST, GAIN, GAIN_MOST = 4, 16, 5, 20


def comparison(record: Record) -> str:
    """The finished place of a comparison."""
    if not record.rows:
        return card(record.reason) if record.finished else ""
    notes = escape(" ".join(_notes(record)))
    view = (
        f'<section class="compare" style="--zoom:{ZOOM};--x:50;--y:50;--gain:{GAIN}">'
        f'{table(record.rows)}<p class="note">{notes}</p>{_downloads(record)}{_views(record)}</section>'
    )
    return anew(f"job-{record.id[:8]}", view)


def _notes(record: Record) -> list[str]:
    """What the numbers and pictures are of."""
    source, rows, notes = record.source, record.rows, []
    sizes = sorted({row["image_size"] for row in rows if row.get("image_size")})
    if source:
        given = say("table.given", width=source["width"], height=source["height"])
        both = say("comma").join(str(size) for size in sizes)
        notes = [say("table.sizes", sizes=both) if len(sizes) > 1 else given]
        notes += [say("table.crop")] * (record.request.get("fit") == "crop") + [say("table.help")]
        notes += sorted({row["lpips_reason"] for row in rows if row.get("lpips_reason")})
    if record.request.get("prompt"):
        asked = {name: record.request.get(name) for name in ("prompt", "seed")}
        notes.append(say("draw.edited" if source else "draw.drawn", **asked))
    return notes


# the numbers


def table(rows: Iterable[Row]) -> str:
    """The numbers of a comparison; a tokenizer that failed keeps its row with the reason."""
    rows = list(rows)
    asked = any(row.get("prompt") for row in rows)
    left_out = set()
    if not asked:
        left_out.add("drawn")
    elif not any(row["reconstruction"] for row in rows):
        left_out.update(OF_PICTURE)
    if all(row.get("lpips") is None for row in rows):  # its weights are not here, as a note below says
        left_out.add("lpips")
    columns = [column for column in COLUMNS if column not in left_out]
    head = "".join(f'<th scope="col">{say("table." + column)}</th>' for column in ("tokenizer", *columns))
    best = {name: _best(rows, name, choose) for name, choose in BEST.items()}
    body = "".join(_row(row, columns, best) for row in rows)
    return (
        f'<div class="table" role="region" tabindex="0" aria-label="{say("table")}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _best(rows: list[Row], name: str, choose: Any) -> dict[int | None, float]:
    """The value to point out among the tokenizers of each picture size: there is none among fewer than two."""
    values: dict[int | None, list[float]] = {}
    for row in rows:
        if row[name] is not None:
            values.setdefault(row.get("image_size"), []).append(row[name])
    return {size: choose(some) for size, some in values.items() if len(some) > 1}


def _row(row: Row, columns: list[str], best: dict[str, dict[int | None, float]]) -> str:
    name = escape(tokenizer_label(row["name"]))
    if row["error"]:
        cells = f'<td colspan="{len(columns)}" class="failed">{escape(row["error"])}</td>'
        return f'<tr><th scope="row">{name}</th>{cells}</tr>'
    about = [row.get("source"), row.get("licence") and say("table.licence", licence=row["licence"])]
    words = f'<span class="from">{escape(" · ".join(filter(None, about)))}</span>'
    size = row.get("image_size")
    values = {
        "size": f"{size} × {size}" if size else "–",
        "psnr": _number(row["psnr"], "{:.2f}"),
        "ssim": _number(row["ssim"], "{:.4f}"),
        "lpips": _number(row["lpips"], "{:.4f}"),
        "latent": " × ".join(str(size) for size in row["latent_shape"]),
        "compression": _number(row["compression"], "{:.3g} ×"),
        "encode": _number(row["encode_ms"], "{:.0f}"),
        "decode": _number(row["decode_ms"], "{:.0f}"),
        "parameters": _number(row["parameters"] and row["parameters"] / 1e6, "{:.1f} M"),
        "drawn": escape(_drawing(row)),
    }
    bold = {column for column, of_size in best.items() if size in of_size and row[column] == of_size[size]}
    cells = "".join(
        f"<td><strong>{values[column]}</strong></td>" if column in bold else f"<td>{values[column]}</td>"
        for column in columns
    )
    return f'<tr><th scope="row">{name}{words}</th>{cells}</tr>'


def _drawing(row: Row) -> str:
    """How a tokenizer's own model did, or why it did nothing."""
    if row.get("draw_error") or not row.get("prompt"):
        return row.get("draw_error") or ""
    return say("draw.cell", steps=row["steps"], seconds=duration(row["draw_seconds"]))


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else "∞" if math.isinf(value) else form.format(value)


def _downloads(record: Record) -> str:
    links = [(f"compare/{record.id}/{file_name(record, kind)}", kind) for kind in KINDS]
    if record.sheet:
        links.insert(0, (address(record, record.sheet), "sheet"))
    tools = "".join(f'<a class="tool" download href="{where}">{say(f"download.{kind}")}</a>' for where, kind in links)
    return f'<div class="tools">{tools}</div>'


# the pictures


def _views(record: Record) -> str:
    """The ways to look at them, as many as there are pictures for."""
    tiles, pictures = _pictures(record)
    shown = [row for row in record.rows if row["reconstruction"]]
    if not (shown or any(row.get("drawn") for row in record.rows)):
        return ""
    name = f"c{record.id[:8]}"
    panels = {"side": _side(tiles, shown, name)}
    if len(pictures) > 1:
        panels["slide"] = _slide(record, pictures, name)
    if len(shown) > 1:
        panels["blind"] = _blind(record, shown)
    place = escape(_open("compare.place", "x", "y", "zoom"))
    return (
        f'<div class="bar">{_choice("view", list(panels), f"{name}v", say("view"))}{_magnify(name)}</div>'
        f'{"".join(panels.values())}<p class="aloud" role="status" data-place="{place}"></p>'
    )


def _pictures(record: Record) -> tuple[list[str], list[tuple[str, str]]]:
    """Everything there is to see, in order, as tiles and as (name, address): the original, and of each tokenizer its
    reconstruction and what its own model made."""
    tiles, pictures = [], []
    if record.source:
        view = record.source["view"]
        tiles.append(_tile(record, say("view.original"), {"original": (view, say("view.original"))}))
        pictures.append((say("view.original"), address(record, view)))
    for row in record.rows:
        label = tokenizer_label(row["name"])
        if row["reconstruction"]:
            files = {kind: row.get(part) for kind, part in LAYERS.items()}
            layers = {kind: (file, f"{label}: {say(f'compare.layer.{kind}')}") for kind, file in files.items() if file}
            tiles.append(_tile(record, label, layers))
            pictures.append((label, address(record, row["reconstruction"])))
        if row.get("drawn"):
            made = say("draw.of.edit" if record.source else "draw.of.prompt", label=label)
            caption = f"{made} · {duration(row['draw_seconds'])}"
            tiles.append(_tile(record, caption, {"drawn": (row["drawn"], f"{made}: {row['prompt']}")}))
            pictures.append((made, address(record, row["drawn"])))
    return tiles, pictures


def _shape(record: Record) -> tuple[int, int]:
    """Width and height of all pictures; those that were drawn from words alone are squares."""
    if record.source:
        return record.source["width"], record.source["height"]
    side = max((row["image_size"] for row in record.rows if row.get("image_size")), default=1)
    return side, side


def _choice(kind: str, values: list[str], name: str, legend: str) -> str:
    """Radio buttons side by side; the first is chosen."""
    labels = "".join(
        f'<label><input type="radio" class="{kind}-choice" name="{name}" value="{value}"'
        f"{' checked' if value == values[0] else ''}><span>{say(f'compare.{kind}.{value}')}</span></label>"
        for value in values
    )
    return f'<fieldset class="modes"><legend class="aloud">{legend}</legend>{labels}</fieldset>'


def _magnify(name: str) -> str:
    looks = _choice("look", ["lens", "zoom", "off"], f"{name}k", say("compare.look"))
    return (
        f'<div class="magnify">{looks}<label class="zoom"><span>{say("compare.zoom", zoom=ZOOM)}</span>'
        f'<input type="range" class="zoom-range" min="2" max="{ZOOM_MOST}" value="{ZOOM}"></label></div>'
    )


def _tile(record: Record, label: str, layers: dict[str, tuple[str, str]]) -> str:
    """One picture of the grid. `layers`: kind → (file, alternative text); each also stands in the lens."""
    width, height = _shape(record)
    shape = f"--w:{width};--h:{height}"
    whole = "".join(
        f'<img class="{kind}" src="{address(record, file)}" alt="{escape(alt)}">'
        for kind, (file, alt) in layers.items()
    )
    near = "".join(
        f'<img data-near="{kind}" src="{address(record, file)}" alt="">' for kind, (file, _) in layers.items()
    )
    return (
        f'<figure><figcaption>{escape(label)}</figcaption><div class="tile" style="{shape}">{whole}'
        f'<div class="lens" aria-hidden="true">{near}</div></div></figure>'
    )


def _side(tiles: list[str], shown: list[Row], name: str) -> str:
    """All pictures side by side; with reconstructions (`shown`) also their errors and latents in their places."""
    if not shown:
        return f'<div class="panel side">{_tiles(tiles)}</div>'
    kinds = [kind for kind, part in LAYERS.items() if any(row.get(part) for row in shown)]
    shares = [
        f"{tokenizer_label(row['name'])} {100 * row['latent_share']:.0f} %"
        for row in shown
        if row.get("latent_share") is not None
    ]
    gain = (
        f'<label class="gain"><span>{say("view.gain", gain=GAIN)}</span>'
        f'<input type="range" class="gain-range" min="1" max="{GAIN_MOST}" value="{GAIN}"></label>'
    )
    scale = escape(_open("compare.scale", "levels"))
    return (
        f'<div class="panel side"><div class="bar">{_choice("layer", kinds, f"{name}l", say("compare.layer"))}{gain}'
        f"</div>{_tiles(tiles)}"
        f'<p class="note for-error" data-scale="{scale}">{scale.format(levels=round(255 / GAIN))}</p>'
        f'<p class="note for-latent">{escape(say("compare.latent.help", shares=", ".join(shares)))}</p></div>'
    )


def _tiles(tiles: list[str]) -> str:
    return (
        f'<div class="tiles" tabindex="0" role="group" aria-label="{escape(say("compare.tiles"))}">{"".join(tiles)}'
        f'</div><p class="note keys-of-tiles">{say("compare.tiles.help")}</p>'
    )


def _slide(record: Record, pictures: list[tuple[str, str]], name: str) -> str:
    left, right = pictures[:2]

    def pick(side: str, chosen: tuple[str, str]) -> str:
        options = "".join(
            f'<option value="{where}"{" selected" if (label, where) == chosen else ""}>{escape(label)}</option>'
            for label, where in pictures
        )
        box = f'<select class="pick" data-side="{side}">{options}</select>'
        return f"<label><span>{say(f'compare.{side}')}</span>{box}</label>"

    modes = "".join(
        f'<label><input type="radio" name="{name}s" value="{mode}"{" checked" if mode == "split" else ""}>'
        f"<span>{escape(words)}</span></label>"
        for mode, words in (("split", say("view.split")), ("before", left[0]), ("after", right[0]))
    )
    width, height = _shape(record)
    shape = f"--w:{width};--h:{height}"
    keys = escape(say("compare.divider.keys"))
    return (
        f'<div class="panel slide"><div class="pair">{pick("before", left)}{pick("after", right)}</div>'
        f'<div class="view" style="--at:50"><div class="stage" style="{shape}">'
        f'<img class="after" src="{right[1]}" alt="{escape(right[0])}">'
        f'<img class="before" src="{left[1]}" alt="{escape(left[0])}">'
        f'<span class="tag left" aria-hidden="true">{escape(left[0])}</span>'
        f'<span class="tag right" aria-hidden="true">{escape(right[0])}</span>'
        f'<input type="range" class="divider" min="0" max="100" value="50" title="{keys}"'
        f' aria-label="{escape(say("compare.divider"))}"></div>'
        f'<fieldset class="modes"><legend class="aloud">{say("view")}</legend>{modes}</fieldset></div>'
        f'<p class="note keys-of-tiles">{keys}</p></div>'
    )


# without names

# Sentences that the script fills in, with what is put into them.
WORDS = {
    "revealed": ("a", "b"),
    "chose": ("label",),
    "none": (),
    "all": (),
    "pair": ("first", "wins", "second", "losses"),
    "ties": ("count",),
}


def _blind(record: Record, shown: list[Row]) -> str:
    """Two reconstructions without their names. They are drawn by the script onto canvases, so that no address that
    could be read names them before a choice."""
    options = [
        {"name": row["name"], "label": tokenizer_label(row["name"]), "src": address(record, row["reconstruction"])}
        for row in shown
    ]
    words = {key: _open(f"blind.{key}", *names) for key, names in WORDS.items()}
    source, shape = record.source, f"--w:{record.source['width']};--h:{record.source['height']}"
    original = _tile(record, say("view.original"), {"original": (source["view"], say("view.original"))})
    size = f'width="{source["width"]}" height="{source["height"]}"'
    canvases = "".join(
        f'<figure><figcaption data-named="{letter}">{say(f"blind.{letter}")}</figcaption>'
        f'<div class="tile" style="{shape}">'
        f'<canvas {size} data-drawn="{letter}" role="img" aria-label="{say(f"blind.{letter}")}"></canvas>'
        f'<div class="lens" aria-hidden="true"><canvas {size} data-drawn="{letter}" data-near="canvas"></canvas></div>'
        "</div></figure>"
        for letter in ("a", "b")
    )
    votes = "".join(
        f'<button class="tool" data-vote="{vote}">{say(f"blind.vote.{vote}")}</button>' for vote in ("a", "none", "b")
    )
    return (
        f'<div class="panel blind" data-job="{record.id}" data-options="{escape(json.dumps(options))}"'
        f' data-words="{escape(json.dumps(words))}"><p class="note">{say("blind.help")}</p>'
        f'{_tiles([original, canvases])}<p class="line verdict" role="status"></p><div class="tools">{votes}'
        f'<button class="tool" data-next hidden>{say("blind.next")}</button></div>'
        f'<div class="tally" hidden><h2 class="quiet">{say("blind.tally")}</h2><ul></ul>'
        f'<button class="tool" data-forget>{say("blind.forget")}</button></div></div>'
    )


def _open(key: str, *names: str) -> str:
    """A sentence whose places stay open, for the script to fill in."""
    return say(key, **{name: f"{{{name}}}" for name in names})
