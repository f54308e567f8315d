"""Load: many clients at one server at once, and the server's memory after many edits.

    PYTHONPATH=. python tests/benchmarks/bench_load.py [--only clients | memory] [--clients 32] [--edits 200]
        [--total 500] [--checkpoint DIR] [--output FILE]

A real server on the smoke checkpoint, asked by gradio_client. Every edit must be answered, or refused with a sentence;
none may be lost; each answer must be what a single client gets for the same seed, in at least 99.9 % of its pixels
within one grey level (pixel for pixel, where no two requests shared a batch); and the server's memory after all edits
may be at most a tenth over that after the first tenth of them. `--only clients` leaves out the memory, `--only memory`
the crowd: 500 edits one after another.
"""

import argparse
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from tests.smoke import write_smoke

ROOT = Path(__file__).resolve().parents[2]
PICTURES = sorted((ROOT / "tests" / "fixtures" / "scenes").glob("scene_*.png"))
PATIENCE = 600  # seconds for which a client waits for any answer: all of them share one machine with the server
PROMPTS = ("make the car blue", "remove the dog", "add a tree on the left", "turn the picture into night")


@dataclass(frozen=True)
class Edit:
    """One request; `seed` is its own, so that each answer is told from all others."""

    seed: int

    @property
    def asked(self) -> dict[str, object]:
        picture = handle_file(PICTURES[self.seed % len(PICTURES)])
        return {"image": picture, "prompt": PROMPTS[self.seed % len(PROMPTS)], "seed": self.seed}


@dataclass(frozen=True)
class Answer:
    """What a client got: the picture's size and pixels, or the words with which it was refused."""

    picture: tuple[tuple[int, int], bytes] | None = None
    words: str = ""

    def like(self, other: "Answer | None") -> float:
        """The share of pixels that are within one grey level of another answer's; 0 for another size or none."""
        if self.picture is None or other is None or other.picture is None or self.picture[0] != other.picture[0]:
            return 0.0
        ours, theirs = (np.frombuffer(one.picture[1], np.uint8).astype(int).reshape(-1, 3) for one in (self, other))
        return float((np.abs(ours - theirs).max(axis=1) <= 1).mean())


class Server:
    """An app.py process and what is known of it from outside."""

    def __init__(self, process: subprocess.Popen, address: str, outputs: Path) -> None:
        self.process, self.address, self.outputs = process, address, outputs

    @property
    def memory(self) -> int:
        return psutil.Process(self.process.pid).memory_info().rss

    def states(self) -> list[str]:
        """How its jobs stand, on the disk."""
        return [json.loads(path.read_text())["state"] for path in self.outputs.glob("*/job.json")]


@contextmanager
def serving(checkpoint: Path, folder: Path) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    outputs = folder / "outputs"
    command = [sys.executable, str(ROOT / "app.py"), "--checkpoint", str(checkpoint), "--port", str(port)]
    command += ["--outputs", str(outputs), "--dtype", "float32"]
    environment = os.environ | {"GRADIO_TEMP_DIR": str(folder / "gradio")}
    with (folder / "errors.log").open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
    try:
        assert any("For programs" in line for line in process.stdout), (folder / "errors.log").read_text()
        yield Server(process, f"http://127.0.0.1:{port}/", outputs)
    finally:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait()
        process.stdout.close()


def ask(server: Server, asked: list[Edit], clients: int, folder: Path) -> dict[Edit, Answer]:
    """Has `clients` of them work the list off at once; an edit that nothing came back for is missing in the result."""
    waiting: queue.SimpleQueue[Edit] = queue.SimpleQueue()
    for edit in asked:
        waiting.put(edit)
    answers: dict[Edit, Answer] = {}
    all_ready = threading.Barrier(clients)

    def work() -> None:
        client = Client(server.address, verbose=False, download_files=str(folder), httpx_kwargs={"timeout": PATIENCE})
        all_ready.wait(PATIENCE)
        while True:
            try:
                edit = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                path = client.predict(**edit.asked, api_name="/edit_image")
                answers[edit] = Answer(picture=pixels(path))
            except AppError as refused:
                answers[edit] = Answer(words=str(refused))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def pixels(path: str) -> tuple[tuple[int, int], bytes]:
    """A picture's size and pixels; the file, a copy of the server's own, is not needed any more."""
    with Image.open(path) as picture:
        found = picture.size, picture.convert("RGB").tobytes()
    Path(path).unlink()
    return found


def is_sentence(words: str) -> bool:
    """Words for a person: no trace, no folder of the machine."""
    return len(words) > 10 and words.rstrip().endswith(".") and "Traceback" not in words and str(ROOT) not in words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("clients", "memory"), help="one of the two; default: both on one server")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--edits", type=int, default=200, help="by all clients together, then again by one")
    parser.add_argument("--total", type=int, default=500, help="edits after which the memory is looked at")
    parser.add_argument("--checkpoint", type=Path, help="default: the smoke checkpoint, written for this run")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "bench" / "bench_load.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = options.checkpoint or write_smoke(folder / "smoke")
        with serving(checkpoint, folder) as server:
            result = measure(server, folder, options)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for row in result.items():
        print("| {} | {} |".format(*row))
    check(result)


def check(result: dict[str, float]) -> None:
    """AssertionError where a number is not what is promised."""
    assert result["jobs left unfinished"] == 0
    if "lost" in result:
        assert result["answered"] > 0, "every edit was refused"
        assert result["lost"] == 0, "some edits were neither answered nor refused"
        assert result["refused without a sentence"] == 0
        assert result["least share of pixels as a single client's"] >= 0.999, "a result depends on the other clients"
    if "memory, end / tenth" in result:
        assert result["memory, end / tenth"] <= 1.1, "the server's memory grows with the edits it has made"


def measure(server: Server, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """The numbers of what `options` ask for: many clients, memory, or both with the clients' edits among the total."""
    result: dict[str, float] = {}
    clients = 1 if options.only == "memory" else options.clients
    early = max(options.total // 10, 1)
    done = 0
    if options.only != "clients":
        ask(server, edits(early, 10**6), clients, folder)
        tenth, done = server.memory, early
    if options.only != "memory":
        result |= crowd(server, folder, options)
        done += 2 * options.edits
    if options.only != "clients":
        left = max(options.total - done, 0)
        ask(server, edits(left, 2 * 10**6), clients, folder)
        end = server.memory
        result |= {
            "edits in all": done + left,
            f"memory after {early}, MB": round(tenth / 1e6),
            "memory at the end, MB": round(end / 1e6),
            "memory, end / tenth": round(end / tenth, 3),
        }
    states = server.states()
    return result | {"jobs left unfinished": sum(state not in ("done", "stopped", "failed") for state in states)}


def crowd(server: Server, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Many clients at once, then the same edits by one: what each of them was told."""
    asked = edits(options.edits, 0)
    start = time.perf_counter()
    together = ask(server, asked, options.clients, folder)
    seconds = time.perf_counter() - start
    alone = ask(server, asked, 1, folder)
    refused = [answer.words for answer in together.values() if answer.words]
    alike = {edit: answer.like(alone.get(edit)) for edit, answer in together.items() if not answer.words}
    return {
        "clients": options.clients,
        "edits": len(asked),
        "answered": len(together) - len(refused),
        "refused": len(refused),
        "refused without a sentence": sum(not is_sentence(words) for words in refused),
        "lost": len(asked) - len(together),
        "pixel for pixel a single client's": sum(together[edit] == alone.get(edit) for edit in alike),
        "least share of pixels as a single client's": min(alike.values(), default=0.0),
        "edits a second": round(len(together) / seconds, 2),
    }


def edits(count: int, first: int) -> list[Edit]:
    return [Edit(first + seed) for seed in range(count)]


if __name__ == "__main__":
    main()
