"""The numbers of a comparison as files, CSV and JSON, made when they are asked for."""

from __future__ import annotations

from datetime import UTC, datetime

from PIL import Image
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.jobs import Jobs
from app.library import import_library
from app.request import FITS
from app.store import Record, Store

KINDS = {"csv": "text/csv; charset=utf-8", "json": "application/json"}
SOURCE = "source.png"  # in a job's folder: the picture before it was brought to the tokenizers' size


def file_name(record: Record, kind: str) -> str:
    """What a download is called."""
    return f"rpiae_compare_{record.id[:8]}.{kind}"


def content(store: Store, record: Record, kind: str) -> str:
    """The numbers of a finished comparison, unrounded, as `python -m rpiae compare --table` writes them."""
    import_library()
    from rpiae.tokenizers.comparison import as_csv, as_json

    if kind == "csv":
        return as_csv(record.rows)
    made = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="seconds")
    fit = record.request.get("fit", FITS[0])
    return as_json(record.rows, job=record.id, created=made, picture=_about(store, record), fit=fit)


def _about(store: Store, record: Record) -> dict[str, object] | None:
    from rpiae.recipe import pixels_sha256

    path = store.file(record.id, SOURCE)
    if path is None:
        return None
    with Image.open(path) as image:
        return {"width": image.width, "height": image.height, "sha256": pixels_sha256(image)}


def routes(jobs: Jobs) -> list[Route]:
    """Where the page finds the files. Whoever knows a job's id may see it, as with its pictures."""

    def answer(request: Request) -> Response:  # no coroutine: it runs in a thread of its own, while others are served
        record = jobs.store.load(request.path_params["job"])
        name = request.path_params["name"]
        kind = name.rpartition(".")[2]
        if record is None or not record.rows or kind not in KINDS or name != file_name(record, kind):
            return Response(status_code=404)
        headers = {
            "Content-Disposition": f'attachment; filename="{name}"',
            "Cache-Control": "private, max-age=86400",
            "X-Content-Type-Options": "nosniff",
        }
        return Response(content(jobs.store, record, kind), media_type=KINDS[kind], headers=headers)

    return [Route("/compare/{job}/{name}", answer)]
