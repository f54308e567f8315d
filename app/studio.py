"""The page as a whole, and the server that shows it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
from collections.abc import AsyncIterator
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route

from app import comparison_files, comparison_view, views, widgets
from app.compare import CompareTab
from app.edit import EditTab
from app.endpoints import MCP, Endpoints
from app.examples import FOLDER, Example, read_examples
from app.export import zip_stream
from app.forms import Forms
from app.generate import GenerateTab
from app.history import HistoryTab
from app.jobs import Jobs
from app.models import ModelsTab, panel, remembered
from app.page import Door, Page, fetch_nothing
from app.room import POLL, QUIET, Room, browser_state
from app.service import Service
from app.shelf import Shelf, offers
from app.texts import say
from app.theme import ICON, STYLES, script, theme
from app.worklist import Worklist

UPLOAD_LIMIT = "30mb"
WAITING = 10_000  # requests of pages and programs that Gradio holds at once
# The browser's own id, made by the browser: asked of the server, it would come too late for a quick first click.
# (crypto.randomUUID is missing on pages that are served without encryption from another machine.)
NEW_OWNER = """(known) => {
  if (known) return known;
  const bytes = [...crypto.getRandomValues(new Uint8Array(16))];
  const hex = bytes.map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}"""
EXPORT_LIMIT = 8000  # characters of a link to a zip
TEMPORARY = (3600, 86400)  # Gradio's own copies of uploads: looked through every hour, a day old at most


def create_app(
    service: Service, jobs: Jobs, examples: Path = FOLDER, shelf: Shelf | None = None
) -> gr.Blocks:
    """The page with its tabs, ready for `launch`. `shelf`: the checkpoints to choose from; without it, the one."""
    shipped = read_examples(examples)
    shelf = shelf or Shelf(jobs, offers(service.checkpoint))
    demo = Page.in_every_language(lambda: _laid_out(service, jobs, shipped, shelf))
    # On a Space with shared GPUs Gradio would let one visitor wait and refuse the next; here jobs wait, not requests.
    demo.queue(default_concurrency_limit=16, max_size=WAITING)
    return demo


def _laid_out(service: Service, jobs: Jobs, shipped: list[Example], shelf: Shelf) -> Page:
    """The page in the language that is spoken now."""
    with Page(title=say("app.title"), analytics_enabled=False, delete_cache=TEMPORARY) as demo:
        owner = browser_state("browser")
        chain = browser_state("chain", {})
        remembered_here = remembered()
        rooms = _rooms(jobs, owner, bool(shipped))
        with gr.Row(elem_classes="top", equal_height=False):
            title = f'<h1>{say("app.title")}</h1><p class="tagline">{say("app.tagline")}</p>'
            gr.HTML(title, elem_id="title", apply_default_css=False)
            chip = gr.HTML(_chip(service), elem_id="model", apply_default_css=False)
            gr.HTML(_switch(), elem_id="language", apply_default_css=False)
        worklist = Worklist(jobs, owner)
        for room in rooms.values():
            room.queued = worklist.queued
            room.after.append((partial(_chip, service), [], [chip]))  # another page may have loaded another checkpoint
        with gr.Tabs(elem_id="tabs", overflow_behavior="wrap") as tabs:
            with gr.Tab(say("tab.edit"), id="edit") as edit_tab:
                edit = EditTab(rooms["edit"], service, shipped, chain)
            with gr.Tab(say("tab.generate"), id="generate") as generate_tab:
                generate = GenerateTab(rooms["generate"], service)
            with gr.Tab(say("tab.compare"), id="compare") as compare_tab:
                compare = CompareTab(rooms["compare"], service, shelf)
            with gr.Tab(say("tab.history"), id="history") as history_tab:
                history = HistoryTab(jobs, owner)
            with gr.Tab(say("tab.models"), id="models") as models_tab:
                models = ModelsTab(shelf, remembered_here)
        edit.wire(demo)
        generate.wire(demo, tabs, edit)
        compare.wire(demo)
        forms = Forms(tabs, edit, generate, compare, jobs)
        edit.use_elsewhere(forms)
        generate.drop.wire(forms)
        history.wire(history_tab, forms)
        worklist.wire(demo, forms)
        demo.load(None, owner, owner, js=NEW_OWNER, **QUIET)
        watched = demo.load(partial(_watch, service), None, chip, concurrency_limit=None, **QUIET)

        def refit(for_generate: str, job: str, for_edit: str) -> dict[Any, Any]:
            """The forms and the facts, when another checkpoint may have been loaded."""
            of_edit = dict(zip(edit.form, edit.switched(for_edit), strict=True))
            facts = {chip: _chip(service), models.panel: panel(service)}
            return generate.switched(for_generate, job) | of_edit | facts

        known = [generate.shown, generate.room.job, edit.shown]
        for changed in (watched, *models.wire(demo)):
            changed.then(refit, known, [*generate.form, *edit.form, chip, models.panel], **QUIET)
        # Another page may have loaded another checkpoint.
        generate_tab.select(generate.switched, [generate.shown, generate.room.job], generate.form, **QUIET)
        edit_tab.select(edit.switched, edit.shown, edit.form, **QUIET)
        models_tab.select(models.refreshed, models.remembered, [models.panel, models.field], **QUIET)
        for tab in (edit_tab, generate_tab, compare_tab, history_tab, models_tab):
            tab.select(partial(_chip, service), None, chip, **QUIET)
        Endpoints(jobs).add()
    return demo


def _rooms(jobs: Jobs, owner: gr.BrowserState, examples: bool) -> dict[str, Room]:
    """One a tab. They are made outside the tabs: a browser state inside a tab that is not on show has no value."""
    edit_empty = say("empty.edit.examples" if examples else "empty.edit")
    return {
        "edit": Room("edit", jobs, owner, views.result, widgets.empty(edit_empty)),
        "generate": Room("generate", jobs, owner, views.result, widgets.empty(say("empty.generate"))),
        "compare": Room("compare", jobs, owner, comparison_view.comparison, widgets.empty(say("empty.compare"))),
    }


def _switch() -> str:
    """The button that shows the page in the other language."""
    other, tag = say("language.other"), say("language.other.tag")
    codes = f'data-language="{say("language.other.code")}" data-now="{say("language.tag")}"'
    return f'<button class="tool" lang="{tag}" {codes}>{other}</button>'


def _chip(service: Service) -> str:
    """What is loaded, in one line."""
    if service.state == "free":
        return f'<p class="chip">{escape(say("model.free", name=service.name))}</p>'
    if failure := service.failure:
        return f'<p class="chip wrong" role="alert">{escape(failure)}</p>'
    if service.facts is None:
        return f'<p class="chip">{escape(say("model.loading", name=service.name))}</p>'
    facts = service.facts
    words = say("model.ready", name=facts.name, device=facts.device, dtype=facts.dtype)
    more = f"{facts.attention} · SHA-256 {facts.sha256[:12]}"
    return f'<p class="chip" title="{escape(more)}">{escape(words)}</p>'


async def _watch(service: Service) -> AsyncIterator[str]:
    """The chip, until the model is there or has failed."""
    yield _chip(service)
    while service.state == "waiting":
        await asyncio.sleep(5 * POLL)
    yield _chip(service)


def routes(jobs: Jobs, examples: Path = FOLDER) -> list[Route]:
    """Finished pictures and examples under addresses that name no folder of this machine."""

    async def result(request: Request) -> Response:
        path = jobs.store.file(request.path_params["job"], request.path_params["name"])
        return _png(path)

    shipped = {
        path.name: path
        for example in read_examples(examples)
        for path in (example.image, example.result)
        if path is not None
    }

    async def example(request: Request) -> Response:
        return _png(shipped.get(request.path_params["name"]))

    async def export(request: Request) -> Response:
        return await _zip(jobs, request)

    return [
        Route("/results/{job}/{name}", result),
        Route("/examples/{name}", example),
        Route("/history.zip", export),
        *comparison_files.routes(jobs),
    ]


async def _zip(jobs: Jobs, request: Request) -> Response:
    """The pictures of the jobs that the link names: whoever knows a job's id may see it, as with `results`."""
    ids = re.findall(r"[0-9a-f-]{36}", request.query_params.get("jobs", "")[:EXPORT_LIMIT])
    records = [record for job in dict.fromkeys(ids) if (record := jobs.store.load(job)) is not None]
    if not records:
        return Response(status_code=404)
    headers = {"Content-Disposition": 'attachment; filename="rpiae_history.zip"', "X-Content-Type-Options": "nosniff"}
    return StreamingResponse(zip_stream(jobs.store, records), media_type="application/zip", headers=headers)


def _png(path: Path | None) -> Response:
    if path is None:
        return Response(status_code=404)
    headers = {"Cache-Control": "private, max-age=86400", "X-Content-Type-Options": "nosniff"}
    return FileResponse(path, media_type="image/png", headers=headers)


def launch(demo: gr.Blocks, jobs: Jobs, host: str, port: int | None, examples: Path = FOLDER) -> str:
    """Begins to serve the page and returns its address. ValueError: it cannot listen there."""
    fetch_nothing()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it announces its MCP server also when quiet; app.py says it
            _, address, _ = demo.launch(server_name=host, server_port=port, **_settings(jobs, examples))
    except OSError as fault:
        raise ValueError(say("error.port", port=port or "7860 to 7959", host=host)) from fault
    return address


def _settings(jobs: Jobs, examples: Path) -> dict[str, Any]:
    """How Gradio serves: nothing shared, nothing asked of other hosts, only our own files."""
    return dict(
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        theme=theme(),
        css_paths=STYLES,
        js=script(),
        favicon_path=ICON,
        max_file_size=UPLOAD_LIMIT,
        allowed_paths=[str(jobs.store.folder), str(examples)],  # it may copy them; see Door
        app_kwargs={"routes": routes(jobs, examples), "middleware": [Middleware(Door, outputs=jobs.store.folder)]},
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        show_error=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=MCP,
        state_session_capacity=1000,
    )
