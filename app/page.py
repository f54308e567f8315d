"""The page as Gradio serves it: in the visitor's language, its faults in sentences, and fetching nothing for anybody.

Gradio's own translations (`gr.I18n`) are made in the browser, for labels alone. Here whatever answers a visitor speaks
their language, so that results, job states and mistakes are in it, too, and a switch can choose it.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import gradio as gr
from gradio import processing_utils, utils
from gradio.context import Context
from gradio.exceptions import InvalidPathError
from gradio.route_utils import FnIndexInferError
from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.outcome import sentence
from app.texts import LANGUAGES, language, say, speaking
from app.visitor import answering, named

log = logging.getLogger(__name__)

FILE_ROUTE = "/gradio_api/file="
UPLOAD_ROUTE = "/gradio_api/upload"
MCP_ROUTE = "/gradio_api/mcp"
SPARE = 1024**3  # bytes that uploads must leave on a disk: the system, and the results, need some
SPARE_SHARE = 50  # of a small disk they must leave one part of so many
_FETCHING = "async_ssrf_protected_download"  # Gradio's, with which it fetches what a file's address names
_UNKNOWN = (LookupError, TypeError, ValueError, AttributeError, FnIndexInferError)  # of names that nothing has
_NO_FILE = (errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.EINVAL)  # a name that no file has
# Routes of Gradio's that no page and no client of ours asks: one hands on what another host says, two keep what they
# are sent, however much that is.
_UNUSED = re.compile(r"/gradio_api/(proxy=|component_server|process_recording)")
_FILE = re.compile(r"/gradio_api/file[=/](.*)", re.DOTALL)  # both forms; what follows is a path, or another address

COOKIE = "rpiae_language"  # set by the switch, see static/studio.js


def wished_language(headers: Mapping[str, str]) -> str:
    """The language that a visitor has chosen, else the first of their browser's that there is."""
    chosen = re.search(rf"(?:^|;\s*){COOKIE}=(\w+)", headers.get("cookie", ""))
    wishes = [(1.0, chosen[1])] if chosen else []
    for part in headers.get("accept-language", "")[:500].split(",") if not chosen else ():
        tag, _, quality = part.partition(";q=")
        try:
            wishes.append((float(quality or 1), tag))
        except ValueError:
            continue
    codes = (tag.strip().split("-")[0].lower() for _, tag in sorted(wishes, key=lambda wish: -wish[0]))
    return next((code for code in codes if code in LANGUAGES), LANGUAGES[0])


class Page(gr.Blocks):
    """Blocks that speak every language, and whose faults are sentences. Gradio answers an event that fails with
    nothing, or with the words of an exception, in which folders of this machine may stand."""

    _config: Any = None
    _translations: Mapping[str, Any] = {}  # by language: the same components, laid out in its words

    @classmethod
    def in_every_language(cls, lay_out: Callable[[], Page]) -> Page:
        """The page that `lay_out` makes, with the words of the other languages for their visitors. The layout is the
        same each time, and so are the numbers of its components."""
        first = Context.id
        page = lay_out()
        last, translations = Context.id, {}
        for other in LANGUAGES[1:]:
            Context.id = first
            with speaking(other):
                translations[other] = lay_out().config["components"]
            assert Context.id == last, "the page's layout depends on the language"
        page._translations = translations
        return page

    @property
    def config(self) -> Any:
        """What a browser is told of the page, in the language of whoever asks."""
        words = self._translations.get(language())
        return self._config if words is None else {**self._config, "components": words}

    @config.setter
    def config(self, config: Any) -> None:
        self._config = config

    async def process_api(self, *args: Any, **values: Any) -> dict[str, Any]:
        """Runs one event, in the language of whoever caused it."""
        request = values.get("request")
        headers = getattr(request, "headers", None)
        with speaking(language() if headers is None else wished_language(headers)), answering(request):
            return await self._told(*args, **values)

    async def _told(self, *args: Any, **values: Any) -> dict[str, Any]:
        try:
            return await super().process_api(*args, **values)
        except gr.Error:
            raise
        except (InvalidPathError, ValidationError) as fault:  # of a file that is none of ours, or no file at all
            raise gr.Error(say("error.not_uploaded"), print_exception=False) from fault
        except Exception as fault:  # mostly a request that no page and no client of ours would make
            log.warning("an event failed", exc_info=fault)
            known = isinstance(fault, (OSError, MemoryError))  # a full disk, for one: whatever the event
            words = sentence(fault) if known else say("error.unexpected")
            raise gr.Error(words, print_exception=False) from fault


class Door:
    """What every HTTP request passes first: it is answered in its language, nothing is read from other hosts, no file
    is handed out but Gradio's own copies, uploads leave room on the disks (also on that of `outputs`), and a fault is
    told in a sentence."""

    def __init__(self, app: ASGIApp, outputs: str | os.PathLike | None = None) -> None:
        self.app, self.outputs = app, outputs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with speaking(wished_language(Headers(scope=scope))):
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if closed := _closed(scope["path"]):
            await JSONResponse({"error": say(closed)}, 403)(scope, receive, send)
            return
        if scope["path"].startswith(MCP_ROUTE):
            scope = named(scope)
        uploads = scope["path"] == UPLOAD_ROUTE
        begun = False

        async def arriving() -> Message:
            message = await receive()
            if uploads and message["type"] == "http.request":  # of several at once, or one that does not say its size
                self._check_room()
            return message

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            if uploads:  # before it begins: Gradio would leave the half that it has written
                length = Headers(scope=scope).get("content-length", "")
                self._check_room(int(length) if length.isdecimal() else 0)
            await self.app(scope, arriving, watched)
        except _UNKNOWN as fault:
            log.warning("a request failed", exc_info=fault)
            if begun:
                raise
            await JSONResponse({"error": say("error.no_endpoint")}, 400)(scope, receive, send)
        except OSError as fault:  # no room for an upload: the page shows the words of the answer
            log.warning("a request failed", exc_info=fault)
            if begun:
                raise
            if fault.errno in _NO_FILE:
                await JSONResponse({"error": say("error.no_endpoint")}, 404)(scope, receive, send)
                return
            await PlainTextResponse(sentence(fault), 507)(scope, receive, send)

    def _check_room(self, length: int = 0) -> None:
        """OSError where so many bytes more would take what is to be left of a disk."""
        for folder in (tempfile.gettempdir(), utils.get_upload_folder(), self.outputs):
            if folder is None or not os.path.isdir(folder):
                continue
            disk = shutil.disk_usage(folder)
            if disk.free < length + min(SPARE, disk.total // SPARE_SHARE):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _closed(path: str) -> str:
    """Why nothing is answered at a path: the key of a sentence, "" where something is. Gradio would serve whatever it
    may copy for the page: all of the output folder, with the records in it that say whose a job is."""
    if _UNUSED.match(path):
        return "error.no_endpoint"
    file = _FILE.match(path)
    return "error.not_uploaded" if file and not _is_copy(file[1]) else ""


def _is_copy(path: str) -> bool:
    """Whether a file is an upload, or a copy that Gradio has made of a result. A whole path: a relative one could be an
    address as well, which Gradio would fetch."""
    try:
        return os.path.isabs(path) and utils.is_in_or_equal(path, utils.get_upload_folder())
    except ValueError:  # of a name that no file can have
        return False


async def _from_here(url: str, cache_dir: str) -> str:
    """Where the upload lies that an address names, so that programs may hand on what they have uploaded."""
    path = urlsplit(url).path
    if FILE_ROUTE in path:
        path = unquote(path.split(FILE_ROUTE, 1)[1])
        if _is_copy(path):
            return path
    raise gr.Error(say("error.address"), print_exception=False)


def fetch_nothing() -> None:
    """From now on Gradio fetches no address for anybody: in place of a file, any request may name one, and the server
    would ask other hosts for it. ValueError: this Gradio does it by another function, and would go on."""
    if not hasattr(processing_utils, _FETCHING):
        raise ValueError(
            f"Gradio {gr.__version__} has no {_FETCHING}, so the studio cannot keep it from fetching addresses for "
            "others. Install the version that requirements.txt names."
        )
    setattr(processing_utils, _FETCHING, _from_here)
