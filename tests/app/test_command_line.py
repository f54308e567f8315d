"""app.py as a process: what it says of mistakes, how soon the page is there, and that it stays at home."""

import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WATCHED = Path(__file__).with_name("watched_app.py")
AT_HOME = ("127.", "::1", "localhost", "None", "0.0.0.0")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def clean_environment() -> dict[str, str]:
    """Without the switches that app.py itself must set, and with a user's wish that it must refuse."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GRADIO_", "HF_"))}
    return kept | {"GRADIO_SHARE": "true"}


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "app.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=clean_environment())


def test_a_folder_without_a_checkpoint_is_one_sentence_and_exit_code_2(tmp_path):
    done = run("--checkpoint", str(tmp_path))
    assert done.returncode == 2
    [line] = done.stderr.strip().splitlines()
    assert "make checkpoint" in line


def test_a_taken_port_and_a_bad_output_folder_are_one_sentence_and_exit_code_2(studio_checkpoint, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run("--checkpoint", str(studio_checkpoint), "--port", port, "--outputs", str(tmp_path / "out"))
    assert done.returncode == 2 and port in done.stderr and "Traceback" not in done.stderr
    (tmp_path / "file").write_text("")
    done = run("--checkpoint", str(studio_checkpoint), "--outputs", str(tmp_path / "file"))
    assert done.returncode == 2 and "cannot be written to" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_page_is_there_soon_and_nothing_leaves_the_machine(studio_checkpoint, tmp_path):
    port, log = free_port(), tmp_path / "connections.log"
    command = [sys.executable, str(WATCHED), str(log), "--checkpoint", str(studio_checkpoint)]
    command += ["--port", str(port), "--outputs", str(tmp_path / "out")]
    start = time.monotonic()
    with (tmp_path / "stderr").open("w") as errors:
        # A shell's background job ignores SIGINT and hands that down; the server is to be stopped by it.
        server = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=clean_environment(),
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
    try:
        said = server.stdout.readline()
        assert f"http://127.0.0.1:{port}" in said, (tmp_path / "stderr").read_text()
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20).read().decode()
        seconds = time.monotonic() - start
        assert "RPiAE Studio" in page
        time.sleep(10)  # loading, warming up, idling
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    places = [line.split(" ", 1)[1] for line in log.read_text().splitlines()]
    assert places, "the watch saw not even the server's own look at itself"
    assert [place for place in places if not place.startswith(AT_HOME)] == []
    print(f"page after {seconds:.1f} s")
    assert seconds < 45  # 5 s on an idle machine; tests may share theirs


@pytest.mark.parametrize(
    ("host", "space", "own"),
    [
        ("127.0.0.1", None, True),
        ("localhost", None, True),
        ("::1", None, True),
        ("0.0.0.0", None, False),
        ("192.168.1.5", None, False),
        ("127.0.0.1", "org/name", False),
    ],
)
def test_only_a_server_of_ones_own_takes_folders_that_people_name(monkeypatch, host, space, own):
    monkeypatch.delenv("SPACE_ID", raising=False)
    if space:
        monkeypatch.setenv("SPACE_ID", space)
    assert runpy.run_path(str(ROOT / "app.py"), run_name="looked at")["_is_own"](host) is own
