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

import contextlib
import json
import math
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
from rpiae.files import whole

VIEW_SIDE = 1280  # longer pictures are shown through a smaller copy
TINT = (214, 51, 132)  # of the changed area
MASK_FILE = "allowed.png"
DEFAULT_LIMIT = 2 * 1024**3
SWEPT = 0.95  # of the cap: so much a sweep leaves, or the next job would be over it again
ABANDONED = 3600  # seconds after which a file that is still not whole is nobody's
TRUSTED = 10.0  # seconds for which records as last read hold: what others change inside a job's folder is seen then
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
    rows: tuple[dict[str, Any], ...] = ()  # a comparison: the fields of `outcome.Row`, pictures as file names
    sheet: str = ""  # a comparison: the file with all of it on one picture

    @property
    def finished(self) -> bool:
        return self.state in FINISHED

    @property
    def reason(self) -> str:
        """Why there is nothing to show. One that a server has left unfinished was told by nobody: it is said to whoever
        asks, in their language."""
        return say("job.interrupted") if self.state == "interrupted" else self.message

    @property
    def ended(self) -> float:
        """When it ended, in seconds since 1970; of use once it has."""
        return (self.started or self.created) + self.seconds


class Store:
    """Jobs on disk under `folder`; the oldest ones go when it grows over `limit` bytes."""

    def __init__(self, folder: str | Path, limit: int = DEFAULT_LIMIT) -> None:
        self.folder = Path(folder).resolve()
        self.limit = limit
        self._read: dict[str, tuple[tuple[int, int], Record]] = {}  # records as last read, each with its file
        self._age: int | None = None  # of the folder, when they were read; None: something was written since
        self._until = 0.0
        self._reading = threading.Lock()
        self._sizes: dict[str, int] = {}  # bytes of each job, as far as this server knows
        self._swept = -math.inf
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                os.listdir(self.folder)
        except OSError as fault:
            raise ValueError(say("error.output_folder", folder=folder, why=fault.strerror)) from fault

    def begin(self, record: Record, source: Image.Image | None, mask: Image.Image | None = None) -> Record:
        """Makes the job's folder with its source picture and mask. A fault leaves nothing behind."""
        home = self.folder / record.id
        try:
            home.mkdir(parents=True)  # somebody may have removed the whole folder
            if source is not None:
                record = replace(record, source=self._put(home, "source.png", source))
            if mask is not None:
                _write(mask, home / MASK_FILE)
                record = replace(record, mask=MASK_FILE)
            self._save(record)
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise
        return record

    def finish(self, record: Record, outcome: Outcome) -> Record:
        """Writes the pictures of an outcome and, last, the record that names them. When that fails, no file of them
        stays: what there was of the job is as before."""
        home = self.folder / record.id
        home.mkdir(parents=True, exist_ok=True)
        before = set(os.listdir(home))
        try:
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
                reference = self._put(home, "reference.png", outcome.reference)
                record = replace(record, source={**record.source, **reference})
            if outcome.sheet is not None:
                record = replace(record, sheet=f"rpiae_compare_{record.id[:8]}.png")
                _write(outcome.sheet, home / record.sheet)
            self._save(record)
        except BaseException:
            _remove(home, before)
            raise
        return record

    def close(self, record: Record, state: str, message: str) -> Record:
        """Ends a job that has no pictures. Never raises: a full disk must not end the worker."""
        seconds = time.time() - record.started if record.started else 0.0
        record = replace(record, state=state, message=message, seconds=seconds)
        try:
            self._save(record)
        except Exception as fault:
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
        return record if record.finished else replace(record, state="interrupted")

    def records(self, owner: str) -> list[Record]:
        """All jobs of one owner, newest first. Files are looked at again when jobs have come, gone or been written,
        else every TRUSTED seconds, and read again when they have changed.

        Raises:
            ValueError: the folder cannot be read just now.
        """
        with self._reading:
            try:
                self._look()
            except FileNotFoundError:  # removed by somebody; the next job makes it again
                self._age, self._read = None, {}
            except OSError as fault:
                self._age = None
                raise ValueError(say("error.output_closed", why=fault.strerror)) from fault
            mine = [record for _, record in self._read.values() if owner and record.owner == owner]
        return sorted(mine, key=lambda record: record.created, reverse=True)

    def remove(self, job_id: str) -> bool:
        """Deletes a job with its files; False when there is none. ValueError: it cannot be deleted."""
        home = self._home(job_id)
        if home is None:
            return False
        try:
            (home / "job.json").unlink(missing_ok=True)  # first: should the rest fail, what is left is no job
        except OSError as fault:
            raise ValueError(say("error.output_closed", why=fault.strerror)) from fault
        shutil.rmtree(home, ignore_errors=True)
        self._age = None
        self._sizes.pop(job_id, None)
        return True

    def file(self, job_id: str, name: str) -> Path | None:
        """The path of one picture of one job; None unless both names are well-formed and the file is there."""
        home = self._home(job_id)
        if home is None or not _FILE_NAME.fullmatch(name):
            return None
        path = home / name
        return path if os.path.isfile(path) and not os.path.islink(path) else None

    def size(self) -> int:
        """Bytes in the folder."""
        return sum(_bytes(home) for home in self._homes())

    def tend(self, keep: set[str] = frozenset()) -> list[str]:
        """Sweeps when there may be cause to: at first, when this server's jobs have grown over the cap, every hour."""
        fresh = time.monotonic() - self._swept < ABANDONED
        return [] if fresh and sum(list(self._sizes.values())) <= self.limit else self.sweep(keep)

    def sweep(self, keep: set[str] = frozenset()) -> list[str]:
        """Removes the oldest jobs of a folder over its cap until it is well within; returns which. `keep`: unfinished
        ones.

        What a killed server left half-written goes as well, once it is too old to be another server's work.
        """
        homes = sorted(self._homes(), key=lambda home: home.stat().st_mtime)
        for home in homes:
            if home.name not in keep:
                _tidy(home)
        homes = [home for home in homes if home.is_dir()]
        sizes = {home: _bytes(home) for home in homes}
        total, removed = sum(sizes.values()), []
        enough = SWEPT * self.limit if total > self.limit else total
        for home in homes[:-1]:  # the newest stays, however large
            if total <= enough:
                break
            if home.name not in keep:
                shutil.rmtree(home, ignore_errors=True)
                total -= sizes.pop(home)
                removed.append(home.name)
        self._sizes = {home.name: size for home, size in sizes.items()}
        self._swept = time.monotonic()
        return removed

    # inside

    def _home(self, job_id: Any) -> Path | None:
        try:
            well_formed = isinstance(job_id, str) and str(uuid.UUID(job_id)) == job_id
        except ValueError:
            return None
        home = self.folder / job_id if well_formed else None
        # os.path, because Path.is_dir raises for a folder that may not be read
        return home if home is not None and os.path.isdir(home) else None

    def _homes(self) -> list[Path]:
        return [home for path in self.folder.iterdir() if (home := self._home(path.name)) is not None]

    def _look(self) -> None:
        """Brings the records that were read up to date."""
        age = self.folder.stat().st_ctime_ns  # changes with the jobs that are in it, and with who may read it
        if age == self._age and time.monotonic() < self._until:
            return
        self._age, self._until = age, time.monotonic() + TRUSTED  # first: what is written meanwhile is seen next time
        homes, known, self._read = self._homes(), self._read, {}
        for home in homes:
            try:
                file = (home / "job.json").stat()
            except OSError:
                continue
            # Each write makes a new file; its age alone may be that of the one before, for clocks of disks are coarse.
            written = (file.st_ino, file.st_mtime_ns)
            old = known.get(home.name)
            record = old[1] if old and old[0] == written else self.load(home.name)
            if record is not None:
                self._read[home.name] = (written, record)

    def _save(self, record: Record) -> None:
        home = self.folder / record.id
        text = json.dumps(asdict(record), ensure_ascii=False, indent=1)
        with whole(home / "job.json") as path:
            path.write_text(text, encoding="utf-8")
        self._age = None
        with contextlib.suppress(OSError):  # removed by somebody just now
            self._sizes[record.id] = _bytes(home)

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
        parts = [f.name for f in fields(row) if isinstance(getattr(row, f.name), Image.Image)]
        plain = asdict(replace(row, **dict.fromkeys(parts)))
        stem = re.sub(r"[^a-z0-9]+", "_", row.name.lower())
        for part in parts:
            plain[part] = self._put(home, f"{stem}_{part}.png", getattr(row, part))["file"]
        return plain


def _write(image: Image.Image, path: Path) -> None:
    """A PNG, written whole. Fast rather than small: a person waits for it, and the folder has a cap."""
    with whole(path) as part:
        image.save(part, "PNG", compress_level=1)


def _remove(home: Path, kept: set[str]) -> None:
    """Takes out of a job's folder what is not named in `kept`."""
    with contextlib.suppress(OSError):
        for name in set(os.listdir(home)) - kept:
            (home / name).unlink(missing_ok=True)


def _tidy(home: Path) -> None:
    """Removes old parts of files, and a folder that never became a job."""
    old = time.time() - ABANDONED
    if not (home / "job.json").exists() and home.stat().st_mtime < old:
        shutil.rmtree(home, ignore_errors=True)
        return
    for part in home.glob(".*.part"):
        if part.stat().st_mtime < old:
            part.unlink(missing_ok=True)


def _bytes(home: Path) -> int:
    return sum(path.stat().st_size for path in home.iterdir() if path.is_file())


def _tinted(mask: Image.Image) -> Image.Image:
    """The changed area as a colour over nothing, small enough for the page."""
    small = mask.copy()
    small.thumbnail((VIEW_SIDE, VIEW_SIDE), Image.Resampling.BOX)
    tint = Image.new("RGBA", small.size, (*TINT, 0))
    tint.putalpha(small.point(lambda value: round(value * 0.6)))
    return tint
