"""What several of the studio's tests do: wait for jobs, find a free port, ask a server as programs and the page do."""

import json
import socket
import urllib.request
from typing import Any

from app.jobs import Jobs
from app.store import Record

PATIENCE = 120  # seconds; the machine may be busy with other things


def end_of(jobs: Jobs, job_id: str) -> Record:
    """The final record of a job."""
    *_, last = jobs.follow(job_id, timeout=PATIENCE)
    assert last.finished
    return last.record


def wait_for_step(jobs: Jobs, job_id: str, step: int) -> None:
    """Returns once a job has made so many steps."""
    reached = any(shot.step >= step for shot in jobs.follow(job_id, timeout=PATIENCE))
    assert reached, f"the job never reached step {step}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def called(address: str, name: str, body: dict, headers: dict | None = None) -> tuple[str, Any]:
    """An endpoint, called by the two requests of the README: the last event's name and its data."""
    headers = {"Content-Type": "application/json", **(headers or {})}
    asked = urllib.request.Request(f"{address}gradio_api/call/v2/{name}", json.dumps(body).encode(), headers)
    event = json.load(urllib.request.urlopen(asked))["event_id"]
    lines = urllib.request.urlopen(f"{address}gradio_api/call/{name}/{event}").read().decode().splitlines()
    kinds = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return kinds[-1], json.loads(data[-1])


def pressed(config: dict, place: str, **given: Any) -> tuple[int, list[Any], int]:
    """A click on a part of a page just opened, by the page's config: the event's number, the values that it sends, and
    the part's number. `given`: other values, by the id or the label of their component; `owner`: the browser's own id.
    """
    parts = {part["id"]: part["props"] for part in config["components"]}
    [number] = [number for number, props in parts.items() if props.get("elem_id") == place]
    [event] = [event for event in config["dependencies"] if [number, "click"] in map(list, event["targets"])]
    inputs = [parts[part] for part in event["inputs"]]
    names = [part.get("elem_id") or part.get("storage_key") or part.get("label") for part in inputs]
    names = ["owner" if name == "rpiae.browser.v1" else name for name in names]
    assert given.keys() <= set(names), names
    values = [given.get(name, part.get("value")) for name, part in zip(names, inputs, strict=True)]
    return event["id"], values, number
