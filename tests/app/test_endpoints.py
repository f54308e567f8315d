"""What programs call: endpoints by gradio_client and plain HTTP, and MCP tools, on a studio that really serves."""

import asyncio
import base64
import contextlib
import io
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
import torch
from anyio.from_thread import start_blocking_portal
from gradio import processing_utils, routes, utils
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image, ImageChops

from app.endpoints import MCP
from app.jobs import Jobs
from app.page import fetch_nothing
from app.service import Service
from app.store import Store
from app.studio import create_app, launch
from rpiae import ClassConditionalPipeline, RPiAEPipeline, recipe
from tests.app.helpers import PATIENCE, called, end_of, free_port, pressed

ROOT = Path(__file__).resolve().parents[2]
NAMES = {"edit_image", "text_to_image", "class_to_image", "reconstruct", "compare_tokenizers", "read_recipe"}
QUICK = {"num_inference_steps": 2}


@pytest.fixture(scope="module")
def jobs(service, tmp_path_factory):
    worker = Jobs(service, Store(tmp_path_factory.mktemp("outputs"))).start()
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        yield


@contextlib.contextmanager
def served(jobs):
    """The address of a studio with these jobs."""
    page = create_app(jobs.service, jobs, Path("nowhere"))
    try:
        yield launch(page, jobs, "127.0.0.1", free_port(), Path("nowhere"))
    finally:
        page.close()


@pytest.fixture(scope="module")
def address(jobs, uploads):
    with served(jobs) as place:
        yield place


@pytest.fixture(scope="module")
def client(address, tmp_path_factory):
    folder = tmp_path_factory.mktemp("downloads")
    with contextlib.closing(Client(address, verbose=False, download_files=folder)) as connected:
        yield connected


@pytest.fixture(scope="module")
def pipeline(studio_checkpoint):
    return RPiAEPipeline.from_pretrained(studio_checkpoint)


@pytest.fixture
def file(picture, tmp_path):
    path = tmp_path / "scene.png"
    picture.resize((300, 200)).save(path)
    return path


def same(one, other) -> bool:
    return one.size == other.size and ImageChops.difference(one.convert("RGB"), other.convert("RGB")).getbbox() is None


def opened(path) -> Image.Image:
    return Image.open(path).convert("RGB")


def said(client, name, **values) -> str:
    """What an endpoint answers to what it cannot do."""
    with pytest.raises(AppError) as told:
        client.predict(api_name=f"/{name}", **values)
    return str(told.value)


def test_only_what_is_made_for_programs_has_a_name(client, jobs):
    named = client.view_api(return_format="dict")["named_endpoints"]
    assert set(named) == {f"/{name}" for name in NAMES}
    page = create_app(jobs.service, jobs, Path("nowhere"))
    public = {event.api_name for event in page.fns.values() if event.api_visibility != "private"}
    assert public == NAMES
    for name in NAMES:
        assert len(named[f"/{name}"]["returns"]) == 1
        assert named[f"/{name}"]["description"]


def test_an_edit_is_the_pipelines_own_with_its_recipe_inside(client, pipeline, file):
    found = client.predict(image=handle_file(file), prompt="make the car blue", seed=7, api_name="/edit_image", **QUICK)
    ours = pipeline("make the car blue", image=opened(file), generator=torch.Generator().manual_seed(7), **QUICK)
    assert same(Image.open(found), ours.images[0])
    assert Image.open(found).size == (300, 200) and "seed7" in Path(found).name
    inside = recipe.read(found)
    assert (inside.prompt, inside.seed, inside.num_inference_steps) == ("make the car blue", 7, 2)
    told = client.predict(image=handle_file(found), api_name="/read_recipe")
    assert (told["kind"], told["prompt"], told["seed"]) == ("edit", "make the car blue", 7)


def test_a_mask_keeps_all_else(client, pipeline, file, tmp_path):
    mask = Image.new("L", (300, 200), 0)
    mask.paste(255, (100, 50, 200, 150))
    mask.save(tmp_path / "mask.png")
    asked = {"image_guidance_scale": 1.0, "guidance_scale": 4.0, **QUICK}
    found = client.predict(
        image=handle_file(file), prompt="a house", seed=1, mask=handle_file(tmp_path / "mask.png"),
        preserve_unchanged=False, api_name="/edit_image", **asked,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    asked |= {"mask_image": mask, "preserve_unchanged": False}
    ours = pipeline("a house", image=opened(file), generator=generator, **asked).images[0]
    assert same(Image.open(found), ours) and not same(ours, opened(file))


def test_a_drawing_is_the_pipelines_own_and_a_seed_is_chosen_when_none_is_given(client, pipeline):
    found = client.predict(prompt="a cat", negative_prompt="a dog", seed=3, api_name="/text_to_image", **QUICK)
    generator = torch.Generator().manual_seed(3)
    assert same(Image.open(found), pipeline("a cat", negative_prompt="a dog", generator=generator, **QUICK).images[0])
    seeds = {recipe.read(client.predict(prompt="a cat", api_name="/text_to_image", **QUICK)).seed for _ in range(2)}
    assert len(seeds) == 2


def test_a_class_is_drawn_as_by_the_pipeline_and_one_that_is_none_is_told(class_checkpoint, uploads, tmp_path):
    jobs = Jobs(Service(class_checkpoint), Store(tmp_path / "out")).start()
    with (
        served(jobs) as address,
        contextlib.closing(Client(address, verbose=False, download_files=tmp_path / "downloads")) as client,
    ):
        found = client.predict(class_label=207, seed=5, num_inference_steps=4, api_name="/class_to_image")
        assert "Class is 1000; it must be between 0 and 999" in said(client, "class_to_image", class_label=1000)
    jobs.close()
    pipe = ClassConditionalPipeline.from_pretrained(class_checkpoint)
    ours = pipe(207, generator=torch.Generator().manual_seed(5), num_inference_steps=4).images[0]
    assert same(Image.open(found), ours)
    inside = recipe.read(found)
    assert (inside.class_label, inside.prompt, inside.seed) == (207, "golden retriever", 5)
    assert inside.num_inference_steps == 4


def test_a_reconstruction_and_a_comparison(client, pipeline, file, address):
    found = client.predict(image=handle_file(file), api_name="/reconstruct")
    assert same(Image.open(found), pipeline.reconstruct(opened(file)))
    asked = {"image": handle_file(file), "tokenizers": ["rpiae"], "api_name": "/compare_tokenizers"}
    [row] = client.predict(**asked)["rows"]
    assert row["name"] == "rpiae" and row["error"] is None and 0 < row["psnr"] < 100 and "drawn" not in row
    [drawn] = client.predict(**asked, prompt="make it blue", seed=3)["rows"]
    assert drawn["psnr"] == row["psnr"] and drawn["seed"] == 3
    assert Image.open(io.BytesIO(urllib.request.urlopen(address + drawn["drawn"]).read())).mode == "RGB"
    shown = Image.open(io.BytesIO(urllib.request.urlopen(address + row["reconstruction"]).read()))
    assert max(shown.size) == 256


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"prompt": "  "}, "Say what should change"),
        ({"prompt": 7}, "must be words"),
        ({"prompt": "x" * 100_000}, "100000 characters"),
        ({"seed": "seven"}, "Seed must be a number"),
        ({"seed": -1}, "between 0 and 2147483647"),
        ({"seed": 2**31}, "between 0 and 2147483647"),
        ({"seed": 1.5}, "whole number"),
        ({"num_inference_steps": 0}, "Steps is 0"),
        ({"num_inference_steps": True}, "Steps must be a number"),
        ({"guidance_scale": 1e9}, "between 0"),
        ({"image_guidance_scale": [1]}, "must be a number"),
        ({"preserve_unchanged": "no"}, "must be true or false"),
        ({"image": None}, "There is no picture yet"),
    ],
)
def test_bad_values_are_told_in_a_sentence(client, file, values, words):
    asked = {"image": handle_file(file), "prompt": "make it blue", **QUICK, **values}
    assert words in said(client, "edit_image", **asked)


def test_bad_files_are_told_in_a_sentence(client, file, tmp_path):
    (tmp_path / "notes.png").write_text("these are words")
    cut = tmp_path / "cut.png"
    cut.write_bytes(file.read_bytes()[:3000])
    black = tmp_path / "black.png"
    Image.new("L", (300, 200)).save(black)
    Image.new("RGB", (64, 64)).save(tmp_path / "plain.png")
    for name, path, words in (
        ("reconstruct", tmp_path / "notes.png", "'notes.png' is not a picture"),
        ("reconstruct", cut, "cut off"),
        ("read_recipe", tmp_path / "notes.png", "'notes.png' is not a picture"),
        ("read_recipe", tmp_path / "plain.png", "no recipe"),
    ):
        told = said(client, name, image=handle_file(path))
        assert words in told and str(tmp_path) not in told and "gradio" not in told
    told = said(client, "edit_image", image=handle_file(file), prompt="x", mask=handle_file(black))
    assert "Nothing is painted" in told
    assert "draw" in said(client, "class_to_image", class_label=3)
    assert "no tokenizer called nothing" in said(
        client, "compare_tokenizers", image=handle_file(file), tokenizers=["nothing"]
    )


def test_a_recipe_is_read_beside_the_thread_that_answers_everybody(client, jobs, file, monkeypatch):
    seen, real = [], jobs.service.picture

    def picture(path):
        with contextlib.suppress(RuntimeError):  # there is no loop in this thread
            seen.append(asyncio.get_running_loop())
        return real(path)

    monkeypatch.setattr(jobs.service, "picture", picture)
    assert "no recipe" in said(client, "read_recipe", image=handle_file(file))
    assert seen == []


def test_a_job_knows_the_address_that_it_came_from(address, jobs, monkeypatch):
    seen, begun, real = [], [], jobs.submit

    def submit(request, owner="", address=""):
        seen.append((owner, address))
        begun.append(real(request, owner, address))
        return begun[-1]

    monkeypatch.setattr(jobs, "submit", submit)
    asked = {"prompt": "a cat", "seed": 3, **QUICK}
    called(address, "text_to_image", asked)
    by_proxy = {"X-Forwarded-For": "192.0.2.1, 203.0.113.5"}  # one on this machine, which is believed
    called(address, "text_to_image", asked, by_proxy)
    page = httpx.get(f"{address}config").json()
    run, values, _ = pressed(page, "generate-run", owner="anna", **{"generate-prompt": "a cat"})
    body = {"data": values, "fn_index": run, "session_hash": "anna"}
    httpx.post(f"{address}gradio_api/queue/join", json=body, headers=by_proxy).raise_for_status()
    said = httpx.get(f"{address}gradio_api/queue/data?session_hash=anna", timeout=PATIENCE).text
    assert seen == [("", "127.0.0.1"), ("", "203.0.113.5"), ("anna", "203.0.113.5")], said
    assert end_of(jobs, begun[-1]).state == "done"


def test_half_a_character_in_a_name_leaves_the_queue_as_it_was(address, jobs, client, file):
    # In JSON, which can say it; gradio_client cannot.
    upload = httpx.post(f"{address}gradio_api/upload", files={"files": ("scene.png", file.read_bytes())}).json()[0]
    before = set(jobs.store.folder.iterdir())
    body = {"image": {"path": upload, "meta": {"_type": "gradio.FileData"}}, "tokenizers": ["\ud83d"]}
    kind, data = called(address, "compare_tokenizers", body)
    assert kind == "error" and r"no tokenizer called \ud83d" in data["error"]
    assert set(jobs.store.folder.iterdir()) == before and all(job.record.finished for job in jobs._jobs.values())


def test_plain_http_draws_a_picture(address, pipeline):
    kind, data = called(address, "text_to_image", {"prompt": "a cat", "seed": 3, **QUICK})
    assert kind == "complete"
    drawn = Image.open(io.BytesIO(urllib.request.urlopen(data[0]["url"]).read()))
    assert same(drawn, pipeline("a cat", generator=torch.Generator().manual_seed(3), **QUICK).images[0])
    kind, data = called(address, "text_to_image", {"prompt": ""})
    assert kind == "error" and "Describe the picture" in data["error"]


@pytest.mark.parametrize("path", ["/etc/hostname", "../../../etc/hostname", "https://example.com/a.png", "app.py"])
def test_a_picture_can_only_be_an_upload(address, path):
    for unmarked in (False, True):  # Gradio itself looks only at files that are marked as such
        upload = {"path": path} if unmarked else {"path": path, "meta": {"_type": "gradio.FileData"}}
        kind, data = called(address, "reconstruct", {"image": upload})
        assert kind == "error" and "pload" in data["error"] and path not in data["error"]


def test_a_file_that_a_job_has_on_the_server_is_no_upload(address, jobs, client):
    client.predict(prompt="a cat", seed=3, api_name="/text_to_image", **QUICK)
    somebodys = next(jobs.store.folder.glob("*/rpiae_*.png"))
    upload = {"path": str(somebodys), "meta": {"_type": "gradio.FileData"}}
    kind, data = called(address, "reconstruct", {"image": upload})
    assert kind == "error" and str(somebodys.parent) not in data["error"]


@pytest.mark.parametrize(("name", "body"), [("nothing", {}), ("text_to_image", {"word": "a cat"}), ("start", {})])
def test_a_name_that_nothing_has_is_refused_with_a_sentence(address, name, body):
    with pytest.raises(urllib.error.HTTPError) as told:
        called(address, name, body)
    assert told.value.code == 400 and "no such endpoint" in json.load(told.value)["error"]


@pytest.mark.parametrize("url", ["https://example.com/a.png", "http://127.0.0.1:1/a.png"])
def test_no_address_that_is_given_as_a_picture_is_fetched(address, monkeypatch, url):
    fetched = []

    async def fetch(*named, **settings):
        fetched.append(named)
        raise OSError

    monkeypatch.setattr(processing_utils, "async_ssrf_protected_get", fetch)
    monkeypatch.setattr(processing_utils.sh, "get", fetch)
    marked = {"meta": {"_type": "gradio.FileData"}}
    for upload in ({"path": url, **marked}, {"path": url, "url": url, **marked}, {"path": url}, {"url": url}, url):
        kind, data = called(address, "reconstruct", {"image": upload})
        assert kind == "error" and ("Upload" in data["error"] or "not a picture" in data["error"]), upload
    assert fetched == []


def test_a_gradio_that_fetches_by_another_function_is_refused_at_start(monkeypatch):
    monkeypatch.delattr(processing_utils, "async_ssrf_protected_download")
    with pytest.raises(ValueError, match="requirements.txt"):
        fetch_nothing()
    assert not hasattr(processing_utils, "async_ssrf_protected_download")


@pytest.mark.parametrize("route", ["file=", "file/"])
@pytest.mark.parametrize("url", ["http://example.com/a.png", "HTTPS://example.com/a.png"])
def test_other_hosts_are_not_asked_for_files(address, monkeypatch, route, url):
    asked = []
    monkeypatch.setattr(routes, "secure_url_stream_response", lambda *named: asked.append(named))
    inside = url + "/.." * 40 + utils.get_upload_folder()  # which as a path would lie among the uploads
    for path in (url, inside):
        sent = quote(path, safe=":").replace(".", "%2E")  # or the client would leave out all the ".."
        assert httpx.get(f"{address}gradio_api/{route}{sent}").status_code == 403
    assert httpx.get(f"{address}gradio_api/proxy={url}").status_code == 403
    assert asked == []


@pytest.mark.parametrize("route", ["file=", "file/"])
def test_a_record_of_a_job_that_says_whose_it_is_is_not_served(address, jobs, client, file, route):
    client.predict(prompt="a cat", seed=3, api_name="/text_to_image", **QUICK)
    homes = [home for home in jobs.store.folder.iterdir() if (home / "job.json").exists()]
    for path in (homes[0] / "job.json", next(homes[0].glob("*.png")), ROOT / "README.md", "a\0b", "/a\0b"):
        answer = httpx.get(f"{address}gradio_api/{route}{quote(str(path))}")
        assert answer.status_code == 403 and "not uploaded here" in answer.json()["error"]
    upload = httpx.post(f"{address}gradio_api/upload", files={"files": ("scene.png", file.read_bytes())}).json()[0]
    assert httpx.get(f"{address}gradio_api/{route}{quote(upload)}").content == file.read_bytes()


def test_no_part_of_the_page_takes_what_is_sent_past_its_events(address):
    page = httpx.get(f"{address}config").json()
    [editor] = [part["id"] for part in page["components"] if part["props"].get("elem_id") == "edit-paint"]
    asked = {"component_id": str(editor), "session_hash": "x", "fn_name": "accept_blobs"}
    asked |= {"type": "layer", "index": "9", "id": "1"}
    files = {"file": ("layer.png", b"no picture")}
    for route in ("component_server", "process_recording"):
        answer = httpx.post(f"{address}gradio_api/{route}", data=asked, files=files)
        assert answer.status_code == 403 and "no such endpoint" in answer.json()["error"]


def test_a_program_that_cancels_stops_its_job(client, jobs):
    call = client.submit(prompt="a long one", seed=5, num_inference_steps=200, api_name="/text_to_image")
    found = None
    deadline = time.monotonic() + PATIENCE
    while found is None and time.monotonic() < deadline:
        asked = (jobs.store.load(home.name) for home in jobs.store.folder.iterdir())
        found = next((record for record in asked if record and record.request.get("prompt") == "a long one"), None)
        time.sleep(0.05)
    call.cancel()
    assert end_of(jobs, found.id).state == "stopped"


@pytest.mark.skipif(not MCP, reason="gradio[mcp] is not installed")
def test_mcp_tools_return_pictures(address, pipeline, file):
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async def talk():
        async with (
            streamable_http_client(f"{address}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            listed = (await session.list_tools()).tools
            uri = "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
            asked = {"image": uri, "prompt": "make the car blue", "seed": 7, **QUICK}
            edited = await session.call_tool("edit_image", asked)
            refused = await session.call_tool("text_to_image", {"prompt": " "})
        return listed, edited, refused

    with start_blocking_portal() as portal:  # in a thread: Playwright's own loop may run in this one
        listed, edited, refused = portal.call(talk)
    assert {tool.name for tool in listed} == NAMES
    [tool] = [tool for tool in listed if tool.name == "edit_image"]
    assert set(tool.inputSchema["required"]) == {"image", "prompt"}
    assert "make the car blue" in tool.inputSchema["properties"]["prompt"]["description"]
    [shown] = [part for part in edited.content if part.type == "image"]
    ours = pipeline("make the car blue", image=opened(file), generator=torch.Generator().manual_seed(7), **QUICK)
    assert same(Image.open(io.BytesIO(base64.b64decode(shown.data))), ours.images[0])
    assert refused.isError and "Describe the picture" in refused.content[0].text


@pytest.mark.slow
def test_without_the_mcp_extra_the_studio_starts_and_says_so(studio_checkpoint, tmp_path):
    hidden = "import runpy, sys; sys.modules['mcp'] = None; sys.argv = sys.argv[1:]; "
    command = [sys.executable, "-c", hidden + "runpy.run_path(sys.argv[0], run_name='__main__')", str(ROOT / "app.py")]
    command += ["--checkpoint", str(studio_checkpoint), "--outputs", str(tmp_path / "out"), "--port", str(free_port())]
    with (tmp_path / "errors").open("w") as errors:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT)
    try:
        lines = [server.stdout.readline() for _ in range(2)]
        assert "RPiAE Studio is at" in lines[0], (tmp_path / "errors").read_text()
        assert "no MCP tools" in lines[1] and "gradio[mcp]" in lines[1]
        with contextlib.closing(Client(lines[0].split()[-1], verbose=False)) as client:
            assert set(client.view_api(return_format="dict")["named_endpoints"]) == {f"/{name}" for name in NAMES}
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
