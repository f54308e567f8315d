"""The studio as a person starts it, in a process of its own."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Studio:
    """One app.py process with the connection watch on; `start` and `stop` as often as a test likes."""

    runner = ROOT / "tests" / "app" / "watched_app.py"

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        self.checkpoint, self.folder = checkpoint, folder
        self.connections = folder / "connections.log"
        self.outputs = folder / "outputs"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        command = [sys.executable, str(self.runner), str(self.connections)]
        command += ["--checkpoint", str(self.checkpoint), "--port", str(self.port), "--outputs", str(self.outputs)]
        command += ["--dtype", "float32"]  # the same words and pixels on every machine
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GRADIO_")}
        environment["GRADIO_TEMP_DIR"] = str(self.folder / "gradio")
        self.errors = (self.folder / "errors.log").open("a")
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment,
            # A shell's background job ignores SIGINT and hands that down; the server is to be stopped by it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        said = any(line.startswith("RPiAE Studio is at") and self.url in line for line in self.process.stdout)
        if not said:
            self.stop(signal.SIGKILL)
        assert said, (self.folder / "errors.log").read_text()

    def stop(self, how: int = signal.SIGINT) -> None:
        self.process.send_signal(how)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.errors.close()

    def close(self) -> None:
        """Stops for good; of all that was done with it, nothing may have gone to another machine."""
        self.stop()
        places = [line.split(" ", 1)[1] for line in self.connections.read_text().splitlines()]
        assert places
        assert [place for place in places if not place.startswith(("127.", "::1", "localhost", "None"))] == []
