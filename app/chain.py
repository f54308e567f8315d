"""Edits of edits: the steps that led to a picture, found through the parent that each job's record names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from app.jobs import Jobs
from app.request import PROMPT_MAX
from app.store import Record

MANY = 4  # edits in a row, each drawing a little anew: from here on one instruction for all of them is better
LONGEST = 100
SOURCE = -1  # in the place of a picture's number: the picture that the job itself began with


@dataclass(frozen=True)
class Step:
    """One edit of a chain, and which of its pictures the next one began with."""

    record: Record
    index: int

    @property
    def picture(self) -> dict:
        return self.record.pictures[self.index]


def chain(jobs: Jobs, job_id: str, index: int, owner: str) -> tuple[Step, ...]:
    """The edits from the first one to picture `index` of a job; () when that is no edit of this owner's.

    A step that was deleted, failed, or is another person's ends the chain there.
    """
    steps: list[Step] = []
    seen = set()
    while job_id and job_id not in seen and len(steps) < LONGEST:
        seen.add(job_id)
        snapshot = jobs.snapshot(job_id)
        record = snapshot.record if snapshot else None
        if record is None or record.owner != owner or record.request.get("kind") != "edit":
            break
        if record.pictures:
            steps.append(Step(record, min(max(index, 0), len(record.pictures) - 1)))
        elif steps:  # a parent without pictures cannot be one
            break
        job_id, index = record.request.get("parent") or "", record.request.get("parent_picture") or 0
    return tuple(reversed(steps))


def file_at(jobs: Jobs, steps: tuple[Step, ...], at: int) -> str | None:
    """The file of the picture at a place of the chain: 0 is the original, 1 the first result."""
    if not 0 <= at <= len(steps) or not steps:
        return None
    step = steps[max(at - 1, 0)]
    name = step.picture["file"] if at else step.record.source["file"]
    path = jobs.store.file(step.record.id, name)
    return str(path) if path else None


def place_at(steps: tuple[Step, ...], at: int) -> tuple[str, int]:
    """Whose picture is at a place of the chain, and which: of the original only the first job knows."""
    return (steps[at - 1].record.id, steps[at - 1].index) if at else (steps[0].record.id, SOURCE)


def origin(record: Record) -> tuple[str, int]:
    """Whose picture a job's source was, and which; its own where it was of no chain."""
    parent = record.request.get("parent")
    return (parent, record.request.get("parent_picture") or 0) if parent else (record.id, SOURCE)


def begins_with(path: str | Path | None, source: Image.Image) -> bool:
    """Whether a file holds just these pixels: only then is it the parent of an edit of `source`."""
    from rpiae import images  # imports torch, see app.library

    if path is None:
        return False
    try:
        picture = images.load(path)
    except ValueError:
        return False
    return picture.size == source.size and picture.tobytes() == source.tobytes()


def merged(steps: tuple[Step, ...]) -> str:
    """All instructions of a chain as one; "" when that would be too long for a prompt."""
    words = "; ".join(step.record.request["prompt"].strip().rstrip(".;") for step in steps)
    return words if len(words) <= PROMPT_MAX else ""
