"""A checkpoint goes to the hub whole, card included: to a tiny hub on this machine that speaks the client's tongue."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from rpiae import AutoencoderRPiAE
from train.config import load_config
from train.publish import write_checkpoint

TOKEN = "hf_of_a_test"


class WritableHub(ThreadingHTTPServer):
    """Takes repositories and commits; `repos`: what was asked for at their making, `files`: path → bytes."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Takes)
        self.repos, self.files = [], {}

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class _Takes(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        if urlsplit(self.path).path != "/api/models/org/name/tree/main":
            return self.answer({}, 404)
        files = self.server.files.items()
        return self.answer([{"type": "file", "path": path, "oid": "0", "size": len(one)} for path, one in files])

    def body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers["Content-Length"]))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def do_POST(self):
        body, path, hub = self.body(), urlsplit(self.path).path, self.server
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer({"error": "Invalid credentials"}, 401)
        if path == "/api/repos/create":
            hub.repos.append(json.loads(body))
            return self.answer({"url": f"{hub.address}/org/name"})
        if path == "/api/models/org/name/preupload/main":
            files = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for one in json.loads(body)["files"]]  # fmt: skip
            return self.answer({"files": files})
        assert path == "/api/models/org/name/commit/main", path
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del hub.files[line["value"]["path"]]
        return self.answer({"commitUrl": f"{hub.address}/org/name/commit/{'0' * 40}", "commitOid": "0" * 40})

    def answer(self, value, status=200):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def hub():
    server = WritableHub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def push(hub, folder, *more, token=TOKEN, repo="org/name", **environment):
    # A process of its own: the hub's client reads its variables once.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = {**kept, "HF_ENDPOINT": hub.address, "HF_TOKEN": token, **environment}
    command = [sys.executable, "-m", "train", "push", "smoke", repo, f"checkpoint={folder}", *more]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_a_checkpoint_is_pushed_whole_and_privately(hub, smoke_checkpoint):
    done = push(hub, smoke_checkpoint)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == f"{hub.address}/org/name"
    assert [repo["visibility"] for repo in hub.repos] == ["private"]
    paths = [path for path in smoke_checkpoint.rglob("*") if path.is_file()]
    assert hub.files == {path.relative_to(smoke_checkpoint).as_posix(): path.read_bytes() for path in paths}
    assert {"README.md", "training.json", "transformer/diffusion_pytorch_model.safetensors"} <= hub.files.keys()


def test_a_wrong_token_and_no_hub_are_sentences(hub, smoke_checkpoint):
    refused = push(hub, smoke_checkpoint, "--public", token="hf_wrong")
    assert refused.returncode == 2 and "hf auth login" in refused.stderr and "Traceback" not in refused.stderr
    unnamed = push(hub, smoke_checkpoint, repo="no/name/at all")
    assert unnamed.returncode == 2 and "'no/name/at all' is no name for the hub" in unnamed.stderr
    offline = push(hub, smoke_checkpoint, HF_HUB_OFFLINE="1")
    assert offline.returncode == 2 and "HF_HUB_OFFLINE is set" in offline.stderr
    assert not hub.files


def test_a_tokenizer_alone_is_pushed(hub, smoke_checkpoint, tmp_path):
    """Over a whole checkpoint, whose transformer is for another tokenizer's latents; what is not ours stays."""
    hub.files |= {name: b"old" for name in ("model_index.json", "transformer/config.json", "figure.png")}
    config = load_config("smoke", [f"checkpoint={tmp_path}/tokenizer"])
    write_checkpoint(config, AutoencoderRPiAE.from_pretrained(smoke_checkpoint / "vae"), None, {})
    done = push(hub, config.checkpoint)
    assert done.returncode == 0, done.stderr[-2000:]
    weights = "vae/diffusion_pytorch_model.safetensors"
    assert hub.files.keys() == {"README.md", "training.json", "vae/config.json", weights, "figure.png"}
    assert hub.files[weights] == (config.checkpoint / weights).read_bytes()


def test_a_folder_that_is_no_checkpoint_is_not_pushed(hub, tmp_path):
    refused = push(hub, tmp_path)
    assert refused.returncode == 2 and "has no model_index.json and no vae/config.json" in refused.stderr
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{}")
    assert "has no README.md" in push(hub, tmp_path).stderr and not hub.repos
