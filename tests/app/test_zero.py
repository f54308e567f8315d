"""As a Space: the address from the environment, and jobs on shared GPUs. `spaces` itself needs Hugging Face's machines:
what stands for it here lends nothing, and does what it does with a function (a callable duration, pickled values)."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import gradio as gr
import pytest
import yaml
from gradio_client import Client

from app import zero
from app.jobs import Jobs
from app.outcome import Progress, Stopped
from app.request import CompareRequest, EditRequest, GenerateRequest, ReconstructRequest
from app.store import Store
from rpiae.recipe import read
from tests.app.helpers import PATIENCE, end_of, free_port, wait_for_step

ROOT = Path(__file__).resolve().parents[2]
VISITORS = ("anna", "ben", "carla", "dora", "emil")
FOR_ALL = {"verbose": False, "httpx_kwargs": {"timeout": PATIENCE}}
SPACES = """
import functools, json, os, pickle

def gradio_auto_wrap(task):  # Gradio asks for it
    return task

def GPU(task=None, *, duration=None):
    if task is None:
        return functools.partial(GPU, duration=duration)

    @functools.wraps(task)
    def lent(*args):
        from gradio.context import LocalContext

        request = LocalContext.request.get(None)
        about = {"seconds": duration(*args), "token": request.headers.get("x-ip-token")}
        about["bytes"] = len(pickle.dumps(args))
        with open(os.environ["LENT"], "a") as log:
            log.write(json.dumps(about) + "\\n")
        for value in task(*args):
            yield pickle.loads(pickle.dumps(value))

    return lent
"""
# What a machine may lack: the packages are there, and say that they are not.
LACKING = 'import sys\nsys.modules["mcp"] = sys.modules["lpips"] = None\n'


@pytest.fixture(scope="module")
def zero_service(studio_checkpoint):
    service = zero.ZeroService(studio_checkpoint)
    service.load()
    return service


@contextmanager
def space(checkpoint: Path, folder: Path, **more: str):
    """app.py in the environment that a Space gives it; the address on this machine."""
    port = free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GRADIO_", "HF_", "SPACE"))}
    given = {"SYSTEM": "spaces", "SPACE_ID": "org/rpiae", "GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SSR_MODE": "True"}
    given |= {"GRADIO_SERVER_PORT": str(port), "PYTHONPATH": str(folder / "packages")}
    command = [sys.executable, str(ROOT / "app.py"), "--checkpoint", str(checkpoint), "--outputs", str(folder / "out")]
    with (folder / "stderr").open("w") as errors:
        server = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=kept | given | more,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
    try:
        said = ""
        while "For programs" not in said:
            line = server.stdout.readline()
            assert line, (folder / "stderr").read_text()
            said += line
        yield f"http://127.0.0.1:{port}/", said
    finally:
        server.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            server.wait(30)
        server.kill()
        server.wait()
        server.stdout.close()


def test_the_front_matter_says_what_requirements_say():
    front = yaml.safe_load((ROOT / "README.md").read_text().split("---\n")[1])
    pins = dict(
        line.split(";")[0].strip().split("==")
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if "==" in line
    )
    assert front["sdk"] == "gradio" and front["sdk_version"] == pins["gradio[mcp]"]
    assert front["python_version"] in ("3.11", "3.12") and front["app_file"] == "app.py"
    assert front["license"] == "apache-2.0" and 0 < len(front["short_description"]) <= 60
    assert "hf upload" in (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_a_space_answers_at_the_address_of_its_environment(studio_checkpoint, tmp_path):
    # Without the package a wish for shared GPUs is none.
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "sitecustomize.py").write_text(LACKING)
    with space(studio_checkpoint, tmp_path, SPACES_ZERO_GPU="true") as (address, said):
        assert 'pip install "gradio[mcp]"' in said
        if sys.platform == "linux":  # another address of this machine
            address = address.replace("127.0.0.1", "127.0.0.2")
        page = urllib.request.urlopen(address, timeout=PATIENCE).read().decode()
        assert "RPiAE Studio" in page
        with closing(Client(address, **FOR_ALL, download_files=str(tmp_path))) as client:
            recipe = read(client.predict(prompt="a cat", seed=7, num_inference_steps=2, api_name="/text_to_image"))
        assert (recipe.prompt, recipe.seed) == ("a cat", 7)
    assert not (tmp_path / "lent").exists()


@pytest.mark.slow
def test_a_shared_gpu_is_lent_to_the_visitors_own_request(studio_checkpoint, tmp_path, picture):
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "spaces.py").write_text(SPACES)
    picture.save(tmp_path / "source.png")
    lent = tmp_path / "lent"
    with space(studio_checkpoint, tmp_path, SPACES_ZERO_GPU="true", LENT=str(lent)) as (address, _):

        def draw(visitor: str) -> None:
            own = {"download_files": str(tmp_path), "headers": {"x-ip-token": visitor}}
            with closing(Client(address, **FOR_ALL, **own)) as client:
                drawn = client.predict(prompt="a cat", seed=7, num_inference_steps=10, api_name="/text_to_image")
            assert read(drawn).seed == 7

        with ThreadPoolExecutor() as visitors:  # at once, so that each waits for others
            list(visitors.map(draw, VISITORS))
    calls = [json.loads(line) for line in lent.read_text().splitlines()]
    assert sorted(about["token"] for about in calls) == list(VISITORS)  # each job once
    assert all(about["seconds"] <= 10 and about["bytes"] < 5000 for about in calls)


def test_the_time_that_is_asked_for_is_that_of_the_request(zero_service, picture):
    short, usual, long = (
        zero.seconds(GenerateRequest("a cat", num_inference_steps=steps, count=count))
        for steps, count in ((10, 1), (30, 1), (200, 4))
    )
    assert 0 < short < usual <= 10 < long <= 60
    assert zero.seconds(EditRequest(picture, "make it blue", num_inference_steps=10)) == short
    assert zero.seconds(GenerateRequest("a cat")) < short  # the checkpoint's own four steps
    assert zero.seconds(ReconstructRequest(picture)) < zero.seconds(CompareRequest(picture, ("a", "b"))) < 60
    drawing = CompareRequest(picture, ("a", "b"), prompt="make it blue")
    assert zero.seconds(CompareRequest(picture, ("a", "b"))) < zero.seconds(drawing) < 60
    assert zero.seconds(CompareRequest(picture, tuple(map(str, range(99))))) == zero.LONGEST


def test_what_is_lent_a_gpu_makes_the_same_picture_with_steps_on_the_way(zero_service, service, picture):
    request = EditRequest(picture, "make it blue", seed=5)
    seen = []
    outcome = zero_service.run(request, Progress(report=lambda done, total, preview: seen.append((done, total))))
    assert seen == [(step, 4) for step in range(1, 5)]
    assert outcome.pictures[0].image.tobytes() == service.run(request).pictures[0].image.tobytes()
    assert outcome.seconds > 0


def test_its_jobs_stop_and_its_faults_are_sentences(zero_service, tmp_path):
    jobs = Jobs(zero_service, Store(tmp_path)).start()
    job = jobs.submit(GenerateRequest("a cat", num_inference_steps=60))
    wait_for_step(jobs, job, 2)
    jobs.stop(job)
    assert end_of(jobs, job).state == "stopped" and jobs.snapshot(job).step < 60
    wrong = end_of(jobs, jobs.submit(GenerateRequest("a dog", class_label=3, num_inference_steps=4)))
    assert wrong.state == "failed" and "not by class" in wrong.message
    jobs.close()
    stopped = Progress()
    stopped.stop.set()
    with pytest.raises(Stopped):
        zero_service.run(GenerateRequest("a cat"), stopped)
    for change in (zero_service.free, lambda: zero_service.switch("elsewhere")):
        with pytest.raises(ValueError, match="keeps the checkpoint"):
            change()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "You have exceeded your free ZeroGPU quota (20s requested vs. 12s left). Try again in 0:10:00. ",
            "takes 20 s",
        ),
        ("(60s requested vs. -3s left)", "you have 0 s left"),
        ("Space app has reached its GPU limit. Try re-running outside of examples", "No shared GPU"),
        ('No GPU was available after 60s. <a style="x" href="https://huggingface.co/join">Create</a>', "No shared GPU"),
    ],
)
def test_a_gpu_that_is_not_lent_is_a_sentence(zero_service, monkeypatch, words, told):
    def refuse(request):
        raise gr.Error(words)
        yield

    monkeypatch.setattr(zero, "compute", refuse)
    with pytest.raises(ValueError, match=told) as fault:
        zero_service.run(GenerateRequest("a cat"))
    assert "<" not in str(fault.value)
