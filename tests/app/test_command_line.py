"""app.py: what it says of mistakes, what it makes of its command line, and that it stays at home."""

import os
import runpy
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.app.helpers import PATIENCE, called, free_port

ROOT = Path(__file__).resolve().parents[2]
WATCHED = Path(__file__).with_name("watched_app.py")
AT_HOME = ("127.", "::1", "localhost", "None", "0.0.0.0")


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


def test_a_batch_of_no_pictures_is_one_sentence_and_exit_code_2(studio_checkpoint):
    done = run("--checkpoint", str(studio_checkpoint), "--together", "0")
    assert done.returncode == 2
    [line] = done.stderr.strip().splitlines()
    assert "--together must be at least 1" in line


@pytest.mark.parametrize(
    ("offline", "host", "asks"), [("", "127.0.0.1", True), ("1", "127.0.0.1", False), ("", "0.0.0.0", False)]
)
def test_the_wishes_of_command_line_and_environment_are_kept(
    studio_checkpoint, tmp_path, monkeypatch, offline, host, asks
):
    made = {}

    def create_app(service, jobs, shelf):
        made.update(service=service, jobs=jobs, shelf=shelf)

    def launch(demo, jobs, *where):
        made["where"] = where
        raise ValueError("that will do")

    monkeypatch.setattr("app.studio.create_app", create_app)
    monkeypatch.setattr("app.studio.launch", launch)
    monkeypatch.delenv("SPACE_ID", raising=False)
    for name in ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, offline)  # app.py sets them all
    arguments = ["--checkpoint", str(studio_checkpoint), "--outputs", str(tmp_path / "out"), "--host", host]
    arguments += ["--port", "7999", "--dtype", "float32", "--together", "3", "--compile"]
    monkeypatch.setattr(sys, "argv", ["app.py", *arguments])
    assert runpy.run_path(str(ROOT / "app.py"), run_name="looked at")["main"]() == 2
    assert os.environ["HF_HUB_OFFLINE"] == "1" and os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    service = made["service"]
    assert (service.checkpoint, service.dtype, service.compiled) == (str(studio_checkpoint), "float32", True)
    assert service.together == 3 and service.allow_paths == (host == "127.0.0.1")
    assert made["where"] == (host, 7999) and made["jobs"].store.folder == tmp_path / "out"
    assert made["shelf"].hub.allowed is asks


@pytest.mark.slow
def test_the_page_is_served_and_nothing_leaves_the_machine(studio_checkpoint, tmp_path):
    port, log = free_port(), tmp_path / "connections.log"
    command = [sys.executable, str(WATCHED), str(log), "--checkpoint", str(studio_checkpoint)]
    command += ["--port", str(port), "--outputs", str(tmp_path / "out")]
    with (tmp_path / "stderr").open("w") as errors:
        # A shell's background job ignores SIGINT and hands that down; the server is to be stopped by it.
        server = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True,
            env=clean_environment() | {"GRADIO_TEMP_DIR": str(tmp_path / "gradio")},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
    try:
        said = server.stdout.readline()
        assert f"http://127.0.0.1:{port}" in said, (tmp_path / "stderr").read_text()
        address = f"http://127.0.0.1:{port}/"
        assert "RPiAE Studio" in urllib.request.urlopen(address, timeout=PATIENCE).read().decode()
        kind, _ = called(address, "text_to_image", {"prompt": "a cat", "num_inference_steps": 1})
        assert kind == "complete"  # loaded, warmed up, and at work
        server.send_signal(signal.SIGINT)
        assert server.wait(PATIENCE) == 0
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    places = [line.split(" ", 1)[1] for line in log.read_text().splitlines()]
    assert places, "the watch saw not even the server's own look at itself"
    assert [place for place in places if not place.startswith(AT_HOME)] == []


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
