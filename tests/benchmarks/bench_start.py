"""The studio's start: how long until the first page, until the first edit is there, and what a later edit takes.

    PYTHONPATH=. python tests/benchmarks/bench_start.py [--checkpoint DIR] [--edits N] [--output DIR] [--repeats N]
        [--quick]

Each repeat is a real server, app.py as `make run` starts it, asked as a browser and a client would. An edit's time is
the one that its job records: from the moment it is taken up until its picture is there. The first edit is asked for as
soon as the page is there, so it may wait for the checkpoint to load: that is in "first answer", not in its own time.
"""

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gradio_client import Client, handle_file
from side_by_side import CHECKPOINT, ROOT, Table, parse, parser

PICTURE = ROOT / "tests" / "fixtures" / "scenes" / "scene_1.png"
GOAL, PATIENCE = 15.0, 600.0  # seconds


@dataclass(frozen=True)
class Start:
    """Seconds after the process began, and of the edits by themselves."""

    page: float
    answer: float
    first: float
    later: float


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__, repeats=3)
    made.add_argument("--checkpoint", default=CHECKPOINT)
    made.add_argument("--edits", type=int, default=5, help="later ones")
    options = parse(made, arguments)
    if options.quick:
        options.edits = 1
    table = Table("start", options)
    starts = [measure(options.checkpoint, options.edits) for _ in range(options.repeats)]
    page, answer, first, later = (
        statistics.median(getattr(start, name) for start in starts) for name in ("page", "answer", "first", "later")
    )
    note = "the imports are of files that the disk has read before" if len(starts) > 1 else ""
    table.ratio(f"app.py to the first page / {GOAL:g} s", page, GOAL, most=1, note=note)
    table.ratio("app.py to the first answer / to the first page", answer, page)
    table.ratio("first edit / a later one", first, later, most=2)
    table.finish()


def measure(checkpoint: Path, edits: int) -> Start:
    with tempfile.TemporaryDirectory() as folder, serving(checkpoint, Path(folder)) as (address, began, alive):
        first_page(address, alive)
        page = time.perf_counter() - began
        client = Client(address, verbose=False, download_files=folder, httpx_kwargs={"timeout": PATIENCE})
        for seed in range(edits + 1):
            client.predict(image=handle_file(PICTURE), prompt="make the car blue", seed=seed, api_name="/edit_image")
            if seed == 0:
                answer = time.perf_counter() - began
        records = [json.loads(path.read_text()) for path in Path(folder).glob("outputs/*/job.json")]
    records.sort(key=lambda record: record["created"])
    took = [record["seconds"] for record in records]
    assert len(took) == edits + 1 and all(record["state"] == "done" for record in records), records
    return Start(page, answer, took[0], statistics.median(took[1:]))


@contextmanager
def serving(checkpoint: Path, folder: Path) -> Iterator[tuple[str, float, Callable[[], bool]]]:
    """A server's address, the moment at which its process began, and whether it still lives."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(ROOT / "app.py"), "--checkpoint", str(checkpoint), "--port", str(port)]
    command += ["--outputs", str(folder / "outputs")]
    environment = os.environ | {"GRADIO_TEMP_DIR": str(folder / "gradio")}
    began = time.perf_counter()
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=ROOT)
    try:
        yield f"http://127.0.0.1:{port}/", began, lambda: process.poll() is None
    except Exception:
        print((folder / "server.log").read_text()[-2000:], file=sys.stderr)
        raise
    finally:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait()


def first_page(address: str, alive: Callable[[], bool]) -> None:
    """Asks until the page is there, whole."""
    deadline = time.monotonic() + PATIENCE
    while alive() and time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(address, timeout=PATIENCE) as answer:
            if answer.status == 200 and b"</html>" in answer.read():
                return
        time.sleep(0.05)
    raise TimeoutError(f"the server shows no page, or none within {PATIENCE:g} s")


if __name__ == "__main__":
    main()
