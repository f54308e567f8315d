"""A tiny hub on this machine: the answers that the hub's client asks for, about one repository."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class TinyHub(ThreadingHTTPServer):
    """Has one repository, org/name, with the files of a folder and one that no checkpoint needs. `asked`: every
    request; `hold`: large files are sent while it is set."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        paths = [path for path in folder.rglob("*") if path.is_file()]
        self.files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        self.files["big.bin"] = bytes(1000)
        self.asked, self.hold = [], threading.Event()
        self.hold.set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answers(BaseHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path, files = urlsplit(self.path).path, self.server.files
        self.server.asked.append(f"{self.command} {path}")
        if path.startswith("/api/models/org/name/tree/"):
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": _etag(data)} for name, data in files.items()
            ]
            return self.send(json.dumps(entries).encode(), body)
        if path in ("/api/models/org/name", "/api/models/org/name/revision/main"):
            siblings = [{"rfilename": name, "size": len(data), "blobId": _etag(data)} for name, data in files.items()]
            return self.send(json.dumps({"id": "org/name", "sha": COMMIT, "siblings": siblings}).encode(), body)
        data = files.get(path.partition("/resolve/")[2].partition("/")[2])
        if data is None:
            return self.send(b"{}", body, 404, {"X-Error-Code": "RepoNotFound"})
        if body and len(data) > 10_000:
            self.server.hold.wait(60)
        return self.send(data, body, headers={"ETag": f'"{_etag(data)}"', "X-Repo-Commit": COMMIT})

    def send(self, data: bytes, body: bool, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


def _etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
