"""One training run of the study, in a folder of its own: what is finished is skipped, what was stopped goes on, and a
folder of other settings is an error."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..config import INCIDENTAL, StageSettings, as_recorded
from ..loop import Loop
from ..stages import machine
from ..states import claimed, write_whole
from ..tasks.task import Task
from .config import StudySettings, as_written
from .rows import row_as_written


@dataclass(frozen=True)
class Plan:
    """All that decides what a stage learns.

    Args:
        about: what does beside its settings and seed; the study's settings among it are in "study", a row's in "row".
    """

    study: StudySettings
    stage: StageSettings
    seed: int
    about: dict[str, Any]

    def written(self) -> dict[str, Any]:
        """As a file has it."""
        plan = {"seed": self.seed, "settings": _kept(self.stage.model_dump(mode="json"))} | self.about
        return json.loads(json.dumps(plan))

    def is_that_of(self, recorded: dict[str, Any]) -> bool:
        """Whether a plan that was written down is this one, settings that are newer than it at their defaults."""
        settings = as_recorded(self.stage, recorded["settings"])
        if settings is not None:
            recorded = recorded | {"settings": _kept(settings)}
        if "study" in recorded:  # plans of an earlier time have no such part
            others = self.study.model_dump(mode="json")
            recorded = recorded | {"study": as_written(recorded["study"], others, *recorded["study"])}
        if "row" in recorded:
            recorded = recorded | {"row": row_as_written(recorded["row"])}
        return recorded == self.written()


def _kept(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in INCIDENTAL}


def train(make_task: Callable[[], Task], plan: Plan, folder: Path, key: str) -> dict:
    """Train a stage to its end in `folder`, unless it is finished; its result lies in folder/result.

    Args:
        key: of the study's settings, for messages.

    Returns: {"samples", "minutes", "machine"}. ValueError when the folder's stage was another.
    """
    planned, marker, stage = folder / "plan.json", folder / "finished.json", plan.stage
    if planned.is_file() and not plan.is_that_of(json.loads(planned.read_text(encoding="utf-8"))):
        raise ValueError(f"{folder} holds a run of other settings; choose another output=, or remove the folder")
    if marker.is_file():
        return json.loads(marker.read_text(encoding="utf-8"))
    with claimed(folder):
        write_whole(planned, json.dumps(plan.written(), indent=1) + "\n")
        torch.manual_seed(plan.seed)
        task = make_task()
        progress = Loop(task, stage, folder, plan.seed, key).run(resume=True)
        shutil.rmtree(folder / "result", ignore_errors=True)
        task.export(folder / "result")
        leg = {
            "samples": progress.step * stage.batch_size,
            "minutes": round(progress.seconds / 60, 2),
            "machine": machine(),
        }
        write_whole(marker, json.dumps(leg, indent=1) + "\n")
        for state in folder.glob("state-*"):
            shutil.rmtree(state)
    return leg
