"""A hostile visitor: some hundred bad requests, drawn by a seeded generator, to a studio that others reach.

Nothing may break: each is answered or refused in a sentence, without a trace, without a folder of the server; no file
but the studio's own is read or written; what is somebody else's stays theirs; and the server is as well as before.
(Gradio names an upload by its place in the temporary folder, since a program needs a name to hand it on by. That one
name is left out of account here.)
"""

import io
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.app import hostile
from tests.app.helpers import PATIENCE, free_port, pressed

ROOT = Path(__file__).resolve().parents[2]
SEED = 20260322
SECRET = "the words that nobody may read"
OWNER, STRANGER = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))
OWN_WORDS = "what only its owner has asked for"
ENDPOINTS = {
    "edit_image": {"image": "upload", "prompt": "make it blue", "seed": 1, "num_inference_steps": 1},
    "text_to_image": {"prompt": "a cat", "seed": 1, "num_inference_steps": 1, "guidance_scale": 1.0},
    "class_to_image": {"class_label": 3, "seed": 1, "num_inference_steps": 2},
    "reconstruct": {"image": "upload"},
    "compare_tokenizers": {"image": "upload", "tokenizers": ["rpiae"]},
    "read_recipe": {"image": "upload"},
}
OPTIONS = ("negative_prompt", "image_guidance_scale", "preserve_unchanged", "mask", "guidance_scale")
SILENT = re.compile(r'(event: error\ndata: |"output": ?)(null|\{"error": ?null)')  # how Gradio says nothing
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # under a minute on two quiet cores


@dataclass
class Answer:
    asked: str
    status: int
    text: str


@dataclass
class Server:
    url: str
    process: subprocess.Popen
    folder: Path
    secret: Path
    answers: list[Answer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=self.url, timeout=280)

    def send(self, method: str, path: str, **values: Any) -> Answer:
        """One request. What cannot even be written as one counts for nothing."""
        asked = f"{method} {str(path)[:200]} {str(values)[:300]}"
        try:
            got = self.http.request(method, path, **values)
        except (httpx.InvalidURL, httpx.ReadError, httpx.WriteError):
            return Answer(asked, 400, "")  # no address; or refused, and closed, while the body was on its way
        except httpx.RemoteProtocolError as broken:
            answer = Answer(asked, 0, str(broken))
        else:
            answer = Answer(asked, got.status_code, got.text)
        self.answers.append(answer)
        return answer

    def post(self, path: str, body: Any) -> Answer:
        text = json.dumps(body)  # with NaN and Infinity, which the http library would refuse to send
        return self.send("POST", path, content=text, headers={"Content-Type": "application/json"})

    def call(self, name: str, body: Any, version: str = "/v2") -> Answer:
        """A call of an endpoint, and what comes of it."""
        answer = self.post(f"gradio_api/call{version}/{name}", body)
        if answer.status != 200:
            return answer
        return self.send("GET", f"gradio_api/call/{name}/{json.loads(answer.text)['event_id']}")

    def event(self, number: int, data: Any, trigger: int | None = None, event_data: Any = None) -> Answer:
        """An event of the page, which has no name for programs."""
        session = uuid.uuid4().hex
        body = {"data": data, "fn_index": number, "session_hash": session, "event_data": event_data}
        answer = self.post("gradio_api/queue/join", body | {"trigger_id": trigger})
        if answer.status != 200:
            return answer
        return self.send("GET", f"gradio_api/queue/data?session_hash={session}")

    def upload(self, name: str, data: bytes) -> dict | None:
        answer = self.send("POST", "gradio_api/upload", files={"files": (name, data)})
        return handed_on(json.loads(answer.text)[0], name) if answer.status == 200 else None


def handed_on(path: str, name: str = "scene.png") -> dict:
    return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.open(ROOT / "tests" / "fixtures" / "scenes" / "scene_1.png").convert("RGB")


@pytest.fixture(scope="module")
def server(studio_checkpoint, tmp_path_factory):
    folder, secret = tmp_path_factory.mktemp("server"), tmp_path_factory.mktemp("private") / "secret.png"
    secret.write_text(SECRET)
    (folder / "tmp").mkdir()
    port = free_port()
    command = [sys.executable, str(ROOT / "tests" / "app" / "watched_app.py"), str(folder / "connections.log")]
    command += ["--checkpoint", str(studio_checkpoint), "--port", str(port), "--dtype", "float32"]
    command += ["--outputs", str(folder / "outputs")]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GRADIO_")}
    own = {"GRADIO_TEMP_DIR": str(folder / "uploads"), "TMPDIR": str(folder / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"}
    own |= {"WATCH_FILES": str(folder / "files.log"), "SPACE_ID": "some/space"}  # so that others reach it
    with (folder / "errors.log").open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=kept | own)
    try:
        said = process.stdout.readline()
        assert "RPiAE Studio is at" in said, (folder / "errors.log").read_text()
        threading.Thread(target=process.stdout.read, daemon=True).start()  # Gradio prints refusals; nobody reads them
        yield Server(said.split()[-1], process, folder, secret)
    finally:
        process.kill()
        process.wait()


@dataclass
class Outcome:
    before: bytes
    after: bytes
    memory: tuple[int, int]
    files: list[str]
    config: dict
    done: Path  # somebody else's job, which had ended before
    theirs: dict[Path, bytes]  # its files
    working: Path  # their job that was at work meanwhile
    clicks: list[Answer]  # to a stranger's clicks on the two


@pytest.fixture(scope="module")
def outcome(server, picture) -> Outcome:
    """Everything that the visitor does, between two requests of a friendly one."""
    rng = random.Random(SEED)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    upload = server.upload("scene.png", buffer.getvalue())
    before = drawn(server)
    config = json.loads(server.http.get("config").text)
    done, working = begun(server, config, steps=2), begun(server, config, steps=80)
    ended(done)
    theirs = {path: path.read_bytes() for path in done.iterdir()}
    friendly = len(server.answers)
    seen = len((server.folder / "files.log").read_text(errors="replace").splitlines())
    memory = resident(server)
    requests = [
        *(bad_call(rng, server, upload) for _ in range(110)),
        *bad_events(rng, server, config),
        *(bad_file(rng, server, name, data, upload) for name, data in hostile.files(rng, picture)),
        *(bad_path(rng, server) for _ in range(70)),
    ]
    rng.shuffle(requests)
    strangers = [*others_job(server, config, working.name), *others_job(server, config, done.name)]
    with ThreadPoolExecutor(4) as visitors:
        clicks = [visitors.submit(click) for click in strangers]
        for sent in [visitors.submit(request) for request in requests]:
            sent.result()
    del server.answers[:friendly]
    log = (server.folder / "files.log").read_text(errors="replace").splitlines()[seen:]
    after = drawn(server)
    memory = (memory, resident(server))
    return Outcome(before, after, memory, log, config, done, theirs, working, [click.result() for click in clicks])


def drawn(server: Server) -> bytes:
    """The pixels that a friendly visitor gets."""
    answer = server.call("text_to_image", {"prompt": "a cat", "seed": 7, "num_inference_steps": 2})
    url = json.loads(answer.text.split("data: ")[-1])[0]["url"]
    return Image.open(io.BytesIO(httpx.get(url, timeout=280).content)).convert("RGB").tobytes()


def resident(server: Server) -> int:
    """The server's memory in MB."""
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1000 for line in lines if line.startswith("VmRSS"))


def begun(server: Server, config: dict, steps: int) -> Path:
    """A job of somebody else's, as their page begins it: its folder."""
    before = set((server.folder / "outputs").iterdir())
    server.event(*pressed(config, "generate-run", owner=OWNER, Steps=steps, **{"generate-prompt": OWN_WORDS}))
    [home] = set((server.folder / "outputs").iterdir()) - before
    return home


def ended(home: Path) -> str:
    """Waits for the end of a job, and returns how it has ended."""
    deadline = time.monotonic() + PATIENCE
    while (state := json.loads((home / "job.json").read_text())["state"]) in ("queued", "running"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return state


def clicked(server: Server, config: dict, place: str, owner: Any, action: str, job: str) -> Answer:
    """A click on a job's button in a list of the page."""
    return server.event(*pressed(config, place, owner=owner), {"action": action, "index": 0, "job": job})


# what is asked


def bad_call(rng: random.Random, server: Server, upload: dict):
    """An endpoint with values, names or numbers of arguments that it does not have."""
    name = rng.choice(list(ENDPOINTS))
    body = {key: upload if value == "upload" else value for key, value in ENDPOINTS[name].items()}
    for key in rng.sample([*body, *OPTIONS], rng.randint(1, 3)):
        body[key] = hostile.values(rng)
    if rng.random() < 0.15:
        body.pop(rng.choice(list(body)))
    if rng.random() < 0.5:
        return lambda: server.call(name, body)
    listed = {"data": rng.choice([list(body.values()), [], [hostile.values(rng)] * 12, hostile.values(rng)])}
    if rng.random() < 0.3:
        return lambda: server.post(f"gradio_api/run/{name}", listed)
    called = rng.choice([name, "start", "../config", name.upper()])
    return lambda: server.call(called, listed, version="")


def bad_events(rng: random.Random, server: Server, config: dict) -> list:
    """Each event of the page, with values that no page sends."""
    actions = ("edit", "delete", "open", "use", "remove", "show", "more", "idea", "example", "back", "source", "\x00")
    found = []
    for event in config["dependencies"]:
        data = [hostile.values(rng) for _ in event["inputs"]]
        click = {"action": rng.choice(actions), "index": hostile.values(rng), "job": hostile.values(rng)}
        trigger = event["targets"][0][0] if event["targets"] else None
        found.append(lambda a=(event["id"], data, trigger, click): server.event(*a))
    found += [lambda n=n: server.event(n, []) for n in (-1, 10**6)]
    bodies = [hostile.values(rng) for _ in range(5)]
    found += [lambda body=body: server.post("gradio_api/queue/join", body) for body in bodies]
    return found


def bad_file(rng: random.Random, server: Server, name: str, data: bytes, upload: dict):
    """A file that is no picture, handed to an endpoint as a picture or as a mask."""
    endpoint = rng.choice(["edit_image", "reconstruct", "compare_tokenizers", "read_recipe", "mask"])

    def ask() -> None:
        put = server.upload(name, data)
        if put is None:
            return
        if endpoint == "mask":
            server.call("edit_image", ENDPOINTS["edit_image"] | {"image": upload, "mask": put})
        else:
            server.call(endpoint, ENDPOINTS[endpoint] | {"image": put})

    return ask


def bad_path(rng: random.Random, server: Server):
    """A file of the server, asked for by an address or named as an upload."""
    path = hostile.paths(rng, server.secret)
    if rng.random() < 0.4:
        endpoint = rng.choice(["reconstruct", "read_recipe"])
        forms = [handed_on(path), {"path": path}, path, {"url": path, "meta": {"_type": "gradio.FileData"}}]
        form = rng.choice(forms)
        return lambda: server.call(endpoint, {"image": form})
    job = rng.choice([str(uuid.UUID(int=3)), "..", "%2e%2e", OWNER])
    address = rng.choice(
        [
            f"gradio_api/file={path}", f"gradio_api/proxy={path}", f"results/{job}/{path}", f"examples/{path}",
            f"history.zip?jobs={job},{path}", f"static/{path}", f"assets/{path}", f"svelte/{path}",
            f"gradio_api/custom_component/{path}/x/y/z", f"?deep_link={path}", f"theme.css?{path}",
            f"gradio_api/deep_link?session_hash={path}", "monitoring", "gradio_api/runs",
        ]
    )  # fmt: skip
    raw = address.replace("\x00", "%00").replace("\\", "%5c")
    return lambda: server.send("GET", httpx.URL(server.url).join("/" + raw) if raw.isascii() else raw)


def others_job(server: Server, config: dict, job: str) -> list:
    """A stranger's clicks on a job that is not theirs: in History, and in the list of jobs."""
    return [
        partial(clicked, server, config, place, owner, action, job)
        for place in ("history-list", "jobs")
        for owner in (STRANGER, "", None, [OWNER], {"owner": OWNER})
        for action in ("delete", "remove", "open", "use", "edit")
    ]


# what must be


def test_there_are_enough_of_them(outcome, server):
    assert len(server.answers) >= 300
    print(f"{len(server.answers)} answers, statuses {sorted({answer.status for answer in server.answers})}")


def test_no_answer_has_a_trace_or_says_nothing(outcome, server):
    for answer in server.answers:
        assert "Traceback" not in answer.text and 'File "' not in answer.text, answer
        assert not SILENT.search(answer.text), answer
        assert answer.status, answer  # the server hung up
        if answer.status >= 500:  # Gradio's own status for a mistake in a call that does not wait in its queue
            assert json.loads(answer.text)["error"].endswith((".", "?")), answer


def test_no_answer_names_a_folder_of_the_server(outcome, server, studio_checkpoint):
    folders = [server.folder, ROOT, studio_checkpoint, Path(sys.prefix), Path(json.__file__).parent]
    for answer in server.answers:
        text = answer.text.replace(str(server.folder / "uploads"), "")
        for folder in map(str, folders):
            assert folder + "/" not in text, (folder, answer)


def test_nothing_that_is_private_was_read(outcome, server):
    for answer in server.answers:
        assert SECRET not in answer.text and "root:x:0:" not in answer.text and "PYTHONDONT" not in answer.text, answer
    private = (str(server.secret.parent), "/etc/passwd", "/proc/self/environ", str(Path.home() / ".ssh"))
    assert [line for line in outcome.files if line[2:].startswith(private)] == []


def test_nothing_was_written_but_outputs_and_uploads(outcome, server):
    own = tuple(str(server.folder / name) for name in ("outputs", "uploads", "tmp")) + ("/dev/null",)
    assert [line for line in outcome.files if line.startswith("w ") and not line[2:].startswith(own)] == []
    assert any(line.startswith("w ") for line in outcome.files)  # the watch sees something
    assert list(server.secret.parent.iterdir()) == [server.secret] and server.secret.read_text() == SECRET


def test_somebody_elses_jobs_are_theirs_still(outcome, server):
    assert len(outcome.clicks) == 100 and all('"success":true' in answer.text for answer in outcome.clicks)
    for answer in server.answers:
        for words in (OWN_WORDS, outcome.done.name, outcome.working.name):
            assert words not in answer.text, answer
    for path, content in outcome.theirs.items():
        assert path.read_bytes() == content
    assert ended(outcome.working) == "done"


def test_the_same_clicks_of_its_owner_stop_and_delete_a_job(outcome, server):
    stopped = begun(server, outcome.config, steps=200)
    clicked(server, outcome.config, "jobs", OWNER, "remove", stopped.name)
    assert ended(stopped) == "stopped"
    clicked(server, outcome.config, "history-list", OWNER, "delete", outcome.done.name)
    assert not outcome.done.exists()


def test_the_server_is_as_well_as_before(outcome, server):
    assert server.process.poll() is None
    assert outcome.after == outcome.before
    assert outcome.memory[1] - outcome.memory[0] < 500, outcome.memory
    assert server.http.get("").status_code == 200
    places = (server.folder / "connections.log").read_text().split("\n")
    at_home = ("127.", "::1", "localhost", "None", "0.0.0.0")
    assert [line for line in places if line and not line.split(" ", 1)[1].startswith(at_home)] == []
