"""The hub: what a checkpoint there consists of, and fetching it, only when a person presses the button.

The server process stays offline. What asks the hub is a process of its own, `python -m app.hub plan | fetch SOURCE
PATTERN ...`, which can be stopped at any time; an interrupted download goes on where it was.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.texts import Mistake

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

PREFIX = "hf:"
ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 60  # seconds for the list of files
_NAME = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:/([\w./-]+\.pt))?")


@dataclass(frozen=True)
class Plan:
    """What a download would fetch: file names with their bytes, from which host."""

    source: str
    host: str
    files: tuple[tuple[str, int], ...]

    @property
    def size(self) -> int:
        return sum(size for _, size in self.files)

    def to_json(self) -> dict[str, Any]:
        return {"source": self.source, "host": self.host, "files": [list(file) for file in self.files]}


def repository(source: str) -> tuple[str, str | None]:
    """ "hf:org/name" or "hf:org/name/file.pt" as repository and file. ValueError for anything else."""
    found = _NAME.fullmatch(source)
    if not found or ".." in source:
        raise Mistake("error.hub_name", source=source[:80])
    return found[1], found[2]


def patterns(source: str) -> list[str]:
    """The files of a repository that make a checkpoint: the authors', or a folder of this library's."""
    from app.library import import_library

    import_library()
    from rpiae.loading import HUB_FILES
    from rpiae.official import RELEASED_REPOSITORY, RELEASED_TOKENIZER, RELEASED_TRANSFORMER

    name, file = repository(source)
    if file:
        return [file]
    return [RELEASED_TOKENIZER, RELEASED_TRANSFORMER] if name == RELEASED_REPOSITORY else list(HUB_FILES)


def local(source: str) -> Path | None:
    """The whole copy that the hub's client keeps on this machine, or None. Asks nobody."""
    name, file = repository(source)
    wanted = patterns(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, local_files_only=True, allow_patterns=wanted))
    except LocalEntryNotFoundError:
        return None
    exact = [folder / one for one in wanted if "*" not in one]
    if not all(one.is_file() for one in exact):
        return None
    return folder / file if file else folder


def fetch_here(source: str) -> Path:
    """Fetches in this process: for a checkpoint named on the command line. ValueError when it cannot be had."""
    name, file = repository(source)
    wanted = patterns(source)
    from huggingface_hub import snapshot_download

    from rpiae.loading import hub_errors

    with hub_errors(name):
        folder = Path(snapshot_download(name, allow_patterns=wanted))
    return folder / file if file else folder


def plan_from(info: ModelInfo, source: str, host: str, wanted: list[str]) -> Plan:
    """What would be fetched, from the hub's own description of a repository. ValueError when it is no checkpoint."""
    files = {
        one.rfilename: int(one.size or 0)
        for one in info.siblings or ()
        if any(fnmatch(one.rfilename, pattern) for pattern in wanted)
    }
    whole = any(name.endswith((".safetensors", ".pt")) or name in wanted for name in files)
    if not whole or any(one not in files for one in wanted if "*" not in one):
        raise Mistake("error.hub_nothing", source=source)
    return Plan(source, host, tuple(sorted(files.items(), key=lambda file: -file[1])))


class Hub:
    """Asks the hub through another process. `allowed`: False where the person wants none of it."""

    def __init__(self, allowed: bool = True) -> None:
        self.allowed = allowed

    def plan(self, source: str, wanted: list[str] | None = None) -> Plan:
        """What fetching `source` would mean, or of it the files that are `wanted`; only this list is asked for.
        ValueError: it cannot be had."""
        repository(source)
        for said in self._ask("plan", source, threading.Event(), PATIENCE, wanted):
            return Plan(said["source"], said["host"], tuple((name, size) for name, size in said["files"]))
        raise Mistake("error.hub_away")

    def fetch(self, plan: Plan, report: Callable[[int, int], None], stop: threading.Event) -> None:
        """Fetches what is not here yet; `report(bytes so far, bytes in all)`. ValueError: it could not."""
        for said in self._ask("fetch", plan.source, stop, wanted=[file for file, _ in plan.files]):
            report(said["done"], plan.size)
        if stop.is_set():
            raise Mistake("error.hub_stopped")

    def _ask(
        self,
        what: str,
        source: str,
        stop: threading.Event,
        patience: float | None = None,
        wanted: list[str] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """What the other process says, line by line."""
        if not self.allowed:
            raise Mistake("error.hub_off")
        environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        command = [sys.executable, "-m", "app.hub", what, source, *(wanted or patterns(source))]
        child = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        ended = threading.Event()
        threading.Thread(target=_watch, args=(child, stop, ended, patience), daemon=True).start()
        try:
            finished = False
            for line in child.stdout:
                said = json.loads(line)
                if "error" in said:
                    raise Mistake(said["error"], **said["values"])
                finished = finished or bool(said.get("end"))
                if "end" not in said:
                    yield said
            if not finished and not stop.is_set():
                raise Mistake("error.hub_away")
        finally:
            ended.set()
            child.kill()
            child.wait()
            child.stdout.close()


def _watch(child: subprocess.Popen, stop: threading.Event, ended: threading.Event, patience: float | None) -> None:
    """Ends the other process when asked to, or when it takes too long."""
    left = patience
    while not ended.wait(0.2):
        left = None if left is None else left - 0.2
        if stop.is_set() or (left is not None and left <= 0):
            child.kill()
            return


# the other process


def _plan(source: str, wanted: list[str]) -> Plan:
    from urllib.parse import urlsplit

    from huggingface_hub import HfApi, constants

    name, _ = repository(source)
    info = HfApi().model_info(name, files_metadata=True, timeout=20)
    return plan_from(info, source, urlsplit(constants.ENDPOINT).hostname or "huggingface.co", wanted)


def _fetch(source: str, wanted: list[str]) -> None:
    """One file after the other, so that there is something to tell; the first call keeps the list of all."""
    from huggingface_hub import snapshot_download

    name, _ = repository(source)
    done = 0
    for file, size in _plan(source, wanted).files:
        snapshot_download(name, allow_patterns=[file])
        done += size
        _tell({"done": done})


def _tell(words: dict[str, Any]) -> None:
    print(json.dumps(words), flush=True)


def _fail(key: str, **values: object) -> None:
    """What went wrong, for the other side to say: this process does not know who asks, nor in which language."""
    _tell({"error": key, "values": values})


def main(what: str, source: str, *wanted: str) -> None:
    """Says one JSON object a line: a plan, progress, at last {"end": true}, or {"error": key, "values": ...}."""
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        if what == "plan":
            _tell(_plan(source, list(wanted)).to_json())
        else:
            _fetch(source, list(wanted))
        _tell({"end": True})
    except (RepositoryNotFoundError, GatedRepoError):
        _fail("error.hub_missing", source=source)
    except HFValidationError:
        _fail("error.hub_name", source=source[:80])
    except Mistake as fault:
        _fail(fault.key, **fault.values)
    except Exception:  # each layer below has its own kinds of "no connection"
        _fail("error.hub_away")


if __name__ == "__main__":
    main(*sys.argv[1:])
