"""The output folder: one folder a job, found again after a restart, never half-written, never over its cap.

    OUT/<job id>/job.json                   the record: request, state, files; written last, so what it names is there
    OUT/<job id>/source.png                 the picture as the models see it: upright, on white, RGB
    OUT/<job id>/allowed.png                where an edit was allowed to change it, if not everywhere
    OUT/<job id>/rpiae_<id>_seed7.png       a result with its recipe inside
    OUT/<job id>/rpiae_<id>_seed7_mask.png  where it differs from the source
    OUT/<job id>/view_*.png                 smaller copies of very large pictures, and tinted masks, for the page

A job id is a whole uuid4: whoever knows it may see the job, and nobody can guess it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import threading
import time
import uuid
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from app.outcome import Outcome, Picture, Row, sentence
from app.texts import say

VIEW_SIDE = 1280  # longer pictures are shown through a smaller copy
TINT = (214, 51, 132)  # of the changed area
MASK_FILE = "allowed.png"
DEFAULT_LIMIT = 2 * 1024**3
FINISHED = ("done", "stopped", "failed", "interrupted")
_FILE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,80}\.png")


@dataclass(frozen=True)
class Record:
    """All that is known of a job, as JSON. Pictures are named by file; `request` holds what was asked."""

    id: str
    request: dict[str, Any]
    owner: str = ""
    state: str = "queued"
    created: float = 0.0
    started: float = 0.0
    seconds: float = 0.0
    stopped_at: int | None = None
    message: str = ""
    notes: tuple[str, ...] = ()
    source: dict[str, Any] | None = None  # {"file", "view", "width", "height"}
    mask: str = ""  # the file that says where an edit was allowed, "" for everywhere
    pictures: tuple[
        dict[str, Any], ...
    ] = ()  # {"file", "view", "width", "height", "seed", "mask", "overlay", ...}
    rows: tuple[dict[str, Any], ...] = ()  # a comparison: the fields of `service.Row`, pictures as file names

    @property
    def finished(self) -> bool:
        return self.state in FINISHED

    @property
    def ended(self) -> float:
        """When it ended, in seconds since 1970; of use once it has."""
        return (self.started or self.created) + self.seconds


class Store:
    """Jobs on disk under `folder`; the oldest ones go when it grows over `limit` bytes."""

    def __init__(self, folder: str | Path, limit: int = DEFAULT_LIMIT) -> None:
        self.folder = Path(folder).resolve()
        self.limit = limit
        self._read: dict[str, tuple[int, Record]] = {}  # records as last read, with the age of their file
        self._reading = threading.Lock()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as fault:
            raise ValueError(say("error.output_folder", folder=folder, why=fault.strerror)) from fault

    def begin(self, record: Record, source: Image.Image | None, mask: Image.Image | None = None) -> Record:
        """Makes the job's folder with its source picture and mask. OSError leaves nothing behind."""
        home = self.folder / record.id
        try:
            home.mkdir()
            if source is not None:
                record = replace(record, source=self._put(home, "source.png", source))
            if mask is not None:
                _write(mask, home / MASK_FILE)
                record = replace(record, mask=MASK_FILE)
            self._save(record)
        except OSError:
            shutil.rmtree(home, ignore_errors=True)
            raise
        return record

    def finish(self, record: Record, outcome: Outcome) -> Record:
        """Writes the pictures of an outcome and, last, the record that names them."""
        home = self.folder / record.id
        record = replace(
            record,
            state="done" if outcome.stopped_at is None else "stopped",
            seconds=outcome.seconds,
            stopped_at=outcome.stopped_at,
            notes=outcome.notes,
            pictures=tuple(self._put_result(home, record.id, picture) for picture in outcome.pictures),
            rows=tuple(self._put_row(home, row) for row in outcome.rows),
        )
        if outcome.reference is not None:
            record = replace(
                record, source={**record.source, **self._put(home, "reference.png", outcome.reference)}
            )
        self._save(record)
        return record

    def close(self, record: Record, state: str, message: str) -> Record:
        """Ends a job that has no pictures. Never raises: a full disk must not end the worker."""
        seconds = time.time() - record.started if record.started else 0.0
        record = replace(record, state=state, message=message, seconds=seconds)
        try:
            self._save(record)
        except OSError as fault:
            record = replace(
                record, message=f"{message} {sentence(fault)}" if message != sentence(fault) else message
            )
        return record

    def save(self, record: Record) -> None:
        """Writes the record, whole or not at all."""
        self._save(record)

    def load(self, job_id: str) -> Record | None:
        """A job from disk. One that was not finished belonged to a server that is gone: interrupted."""
        home = self._home(job_id)
        if home is None:
            return None
        try:
            plain = json.loads((home / "job.json").read_text(encoding="utf-8"))
            known = {f.name for f in fields(Record)}
            record = Record(**{key: value for key, value in plain.items() if key in known})
        except (OSError, ValueError, TypeError, AttributeError):
            return None
        record = replace(
            record, **{key: tuple(getattr(record, key)) for key in ("pictures", "rows", "notes")}
        )
        return (
            record
            if record.finished
            else replace(record, state="interrupted", message=say("job.interrupted"))
        )

    def records(self, owner: str) -> list[Record]:
        """All jobs of one owner, newest first. A file is read again only when it has changed."""
        with self._reading:
            known, self._read = self._read, {}
            for home in self._homes():
                try:
                    age = (home / "job.json").stat().st_mtime_ns
                except OSError:
                    continue
                old = known.get(home.name)
                record = old[1] if old and old[0] == age else self.load(home.name)
                if record is not None:
                    self._read[home.name] = (age, record)
            mine = [record for _, record in self._read.values() if owner and record.owner == owner]
        return sorted(mine, key=lambda record: record.created, reverse=True)

    def remove(self, job_id: str) -> bool:
        """Deletes a job with its files; False when there is none."""
        home = self._home(job_id)
        if home is None:
            return False
        (home / "job.json").unlink(missing_ok=True)  # first: should the rest fail, what is left is no job
        shutil.rmtree(home, ignore_errors=True)
        return True

    def file(self, job_id: str, name: str) -> Path | None:
        """The path of one picture of one job; None unless both names are well-formed and the file is there."""
        home = self._home(job_id)
        if home is None or not _FILE_NAME.fullmatch(name):
            return None
        path = home / name
        return path if path.is_file() and not path.is_symlink() else None

    def size(self) -> int:
        """Bytes in the folder."""
        return sum(_bytes(home) for home in self._homes())

    def sweep(self, keep: set[str] = frozenset()) -> int:
        """Removes the oldest jobs until the folder is within its cap; returns how many. `keep`: unfinished ones."""
        homes = sorted(self._homes(), key=lambda home: home.stat().st_mtime)
        sizes = {home: _bytes(home) for home in homes}
        total, removed = sum(sizes.values()), 0
        for home in homes[:-1]:  # the newest stays, however large
            if total <= self.limit:
                break
            if home.name not in keep:
                shutil.rmtree(home, ignore_errors=True)
                total, removed = total - sizes[home], removed + 1
        return removed

    # inside

    def _home(self, job_id: Any) -> Path | None:
        try:
            well_formed = isinstance(job_id, str) and str(uuid.UUID(job_id)) == job_id
        except ValueError:
            return None
        home = self.folder / job_id if well_formed else None
        return home if home is not None and home.is_dir() else None

    def _homes(self) -> list[Path]:
        return [home for path in self.folder.iterdir() if (home := self._home(path.name)) is not None]

    def _save(self, record: Record) -> None:
        text = json.dumps(asdict(record), ensure_ascii=False, indent=1)
        with _whole(self.folder / record.id / "job.json") as path:
            path.write_text(text, encoding="utf-8")

    def _put(self, home: Path, name: str, image: Image.Image) -> dict[str, Any]:
        _write(image, home / name)
        return {"file": name, **self._view(home, name, image)}

    def _view(self, home: Path, name: str, image: Image.Image) -> dict[str, Any]:
        about = {"view": name, "width": image.width, "height": image.height}
        if max(image.size) > VIEW_SIDE:
            small = image.copy()
            small.thumbnail((VIEW_SIDE, VIEW_SIDE), Image.Resampling.BOX)
            about["view"] = f"view_{name}"
            _write(small, home / about["view"])
        return about

    def _put_result(self, home: Path, job_id: str, picture: Picture) -> dict[str, Any]:
        from rpiae.recipe import save_png  # imports torch, see app.service

        stem = f"rpiae_{job_id[:8]}" + ("" if picture.seed is None else f"_seed{picture.seed}")
        stem += "_partial" if picture.partial else ""
        save_png(picture.image, home / f"{stem}.png", picture.recipe)
        about = {
            "file": f"{stem}.png",
            **self._view(home, f"{stem}.png", picture.image),
            "seed": picture.seed,
            "recipe": asdict(picture.recipe) if picture.recipe else None,
            "partial": picture.partial,
            "mask": None,
            "overlay": None,
            "changed": None,
        }
        if picture.change_mask is not None:
            about["mask"], about["overlay"] = f"{stem}_mask.png", f"view_{stem}_tint.png"
            _write(picture.change_mask, home / about["mask"])
            _write(_tinted(picture.change_mask), home / about["overlay"])
            about["changed"] = float((np.asarray(picture.change_mask) > 0).mean())
        return about

    def _put_row(self, home: Path, row: Row) -> dict[str, Any]:
        plain = asdict(replace(row, reconstruction=None, error_map=None))
        stem = re.sub(r"[^a-z0-9]+", "_", row.name.lower())
        for part, image in (("reconstruction", row.reconstruction), ("error_map", row.error_map)):
            if image is not None:
                plain[part] = self._put(home, f"{stem}_{part}.png", image)["file"]
        return plain


class _whole:
    """`with _whole(path) as temporary:` - the file appears under its name complete, or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Path:
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=".", suffix=".part")
        os.close(handle)
        self.temporary = Path(name)
        return self.temporary

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            if kind is None:
                os.replace(self.temporary, self.path)
        finally:
            self.temporary.unlink(missing_ok=True)


def _write(image: Image.Image, path: Path) -> None:
    """A PNG, written whole. Fast rather than small: a person waits for it, and the folder has a cap."""
    with _whole(path) as temporary:
        image.save(temporary, "PNG", compress_level=1)


def _bytes(home: Path) -> int:
    return sum(path.stat().st_size for path in home.iterdir() if path.is_file())


def _tinted(mask: Image.Image) -> Image.Image:
    """The changed area as a colour over nothing, small enough for the page."""
    small = mask.copy()
    small.thumbnail((VIEW_SIDE, VIEW_SIDE), Image.Resampling.BOX)
    tint = Image.new("RGBA", small.size, (*TINT, 0))
    tint.putalpha(small.point(lambda value: round(value * 0.6)))
    return tint
