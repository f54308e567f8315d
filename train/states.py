"""What a run leaves on disk while it trains: states to go on from, and the log.

A state is written beside its place and then renamed, and an old one is renamed before it is removed. So whatever moment
a process is killed at, what is called a state is whole; the rest is rubbish, swept when the run goes on.
"""

import fcntl
import json
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rpiae.files import whole

logger = logging.getLogger(__name__)

RUBBISH = ".part"


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a run's folder inside the block, or until this process ends, however it ends.

    ValueError when another one is in it: a launcher that was killed may leave its processes at work. A process claims a
    folder once at a time, since closing the file anywhere in it gives the claim up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+", encoding="utf-8") as claim:
        try:
            fcntl.lockf(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            claim.seek(0)
            who = claim.read().strip() or "another process"
            raise ValueError(
                f"{who} trains in {folder}: wait for its end, or stop it, or choose another output="
            ) from None
        except OSError:
            logger.warning("%s is on a disk without locks: see to it that no other process trains there", folder)
        claim.truncate(0)
        claim.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        claim.flush()
        yield


class States:
    """The states of one run: `state-<step>` folders, the newest `kept` of them."""

    def __init__(self, folder: Path, kept: int):
        self.folder, self.kept = folder, kept

    def all(self) -> list[Path]:
        """Whole states, oldest first."""
        return sorted(path for path in self.folder.glob("state-*") if path.suffix != RUBBISH)

    def sweep(self) -> None:
        """Remove what a killed process left half-written or half-removed."""
        for path in self.folder.glob(f"state-*{RUBBISH}"):
            shutil.rmtree(path)

    def beside(self, step: int) -> Path:
        """Where the state of a step is written first."""
        return self.folder / f"state-{step:08d}{RUBBISH}"

    def commit(self, step: int) -> None:
        """Give the written state its name, then let the oldest go."""
        part = self.beside(step)
        part.rename(part.with_suffix(""))
        for old in self.all()[: -self.kept]:
            going = old.with_name(old.name + RUBBISH)
            old.rename(going)
            shutil.rmtree(going)


class Log:
    """Records as JSON lines, each with its step."""

    def __init__(self, file: Path):
        self.file = file

    def write(self, record: dict) -> None:
        with open(self.file, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")

    def rewind(self, step: int) -> None:
        """Drop what was logged after a step (a run that goes on from there logs it again), and a line cut short."""
        if not self.file.is_file():
            return
        kept = []
        for line in self.file.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            if record["step"] <= step:
                kept.append(line + "\n")
        write_whole(self.file, "".join(kept))


def write_whole(file: Path, text: str) -> None:
    """Write a small file so that it is the old one or the new one at every moment."""
    with whole(file) as part:
        part.write_text(text, encoding="utf-8")
