"""What a download would fetch, and fetching it: from a tiny hub on this machine that speaks the client's language."""

import re
import threading
import time
from dataclasses import replace

import pytest
import torch
from huggingface_hub import ModelInfo, constants

from app import hub
from app.hub import Hub, Plan
from app.jobs import Jobs
from app.service import Service
from app.shelf import NotHere, Shelf, megabytes
from app.store import Store
from app.texts import speaking
from rpiae.recipe import circumstances
from tests.app.tiny_hub import COMMIT, TinyHub

FOLDER = {"model_index.json": 300, "vae/config.json": 900, "vae/diffusion_pytorch_model.safetensors": 335_000_000}


def info(files: dict[str, int], name: str = "org/name") -> ModelInfo:
    return ModelInfo(id=name, sha=COMMIT, siblings=[{"rfilename": file, "size": size} for file, size in files.items()])


def plan(files: dict[str, int], source: str = "hf:org/name") -> Plan:
    return hub.plan_from(info(files), source, "huggingface.co", hub.patterns(source))


def test_a_plan_lists_what_a_checkpoint_needs_the_largest_first():
    found = plan(FOLDER | {"README.md": 10, "training.log": 5000, "old.ckpt": 10**9})
    assert [name for name, _ in found.files][0] == "vae/diffusion_pytorch_model.safetensors"
    assert {name for name, _ in found.files} == {*FOLDER, "README.md"}
    assert found.size == sum(FOLDER.values()) + 10 and megabytes(found.size) == "335 MB"


def test_of_the_authors_repository_only_tokenizer_and_transformer():
    from rpiae.official import RELEASED_REPOSITORY, RELEASED_TOKENIZER, RELEASED_TRANSFORMER

    files = {RELEASED_TOKENIZER: 2_200_000_000, RELEASED_TRANSFORMER: 8_100_000_000, "LightningDiT/ep-0000020.pt": 9}
    found = plan(files, f"hf:{RELEASED_REPOSITORY}")
    assert [name for name, _ in found.files] == [RELEASED_TRANSFORMER, RELEASED_TOKENIZER]
    assert megabytes(found.size) == "10.3 GB"
    [(name, size)] = plan(files, "hf:someone/mirror/LightningDiT/ep-0000020.pt").files
    assert (name, size) == ("LightningDiT/ep-0000020.pt", 9)


@pytest.mark.parametrize("files", [{}, {"README.md": 1}, {"pytorch_model.bin": 10**9}])
def test_a_repository_without_a_checkpoint_is_told(files):
    with pytest.raises(ValueError, match="hf:org/name holds no checkpoint"):
        plan(files)


@pytest.mark.parametrize("source", ["hf:", "hf:name", "hf:a b/c", "hf:org/name/../x.pt", "hf:org/name/x.bin", "org/n"])
def test_what_is_no_id_is_told_before_anybody_is_asked(source):
    with pytest.raises(ValueError, match="hf:org/name"):
        Hub().plan(source)


def test_without_the_hub_it_is_one_sentence(monkeypatch):
    with pytest.raises(ValueError, match="started without the hub"):
        Hub(allowed=False).plan("hf:org/name")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(ValueError, match="did not answer"):
        Hub().plan("hf:org/name")
    with speaking("zh"), pytest.raises(ValueError, match="模型库没有响应"):  # found out by another process
        Hub().plan("hf:org/name")


@pytest.fixture
def tiny_hub(class_checkpoint, tmp_path, monkeypatch):
    server = TinyHub(class_checkpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))  # this process has read the variable before
    yield server
    server.hold.set()
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_a_checkpoint_is_planned_fetched_loaded_and_then_found_here(tiny_hub, studio_checkpoint, tmp_path, ended):
    jobs = Jobs(Service(studio_checkpoint), Store(tmp_path / "out")).start()
    shelf = Shelf(jobs, {}, Hub())
    try:
        with pytest.raises(NotHere):
            shelf.load("hf:org/name")
        assert tiny_hub.asked == []  # nobody is asked before a person presses the button
        found = shelf.plan("hf:org/name")
        assert found.host == "127.0.0.1" and "big.bin" not in dict(found.files)
        assert not any("/resolve/" in asked for asked in tiny_hub.asked)
        task = ended(shelf.download(found))
        assert not task.wrong, task.words
        facts = shelf.service.facts
        assert (facts.kind, facts.name, facts.source, facts.licence) == ("classes", "name", "hf:org/name", "cc-by-4.0")
        assert not any("big.bin" in asked for asked in tiny_hub.asked)
        assert re.fullmatch("[0-9a-f]{64}", circumstances("hf:org/name", "cpu", torch.float32)["checkpoint_sha256"])
        asked = len(tiny_hub.asked)
        assert not ended(shelf.load("hf:org/name")).wrong  # from this machine
        assert len(tiny_hub.asked) == asked
        with pytest.raises(ValueError, match="no hf:org/other on the hub"):
            shelf.plan("hf:org/other")
    finally:
        jobs.close()


@pytest.mark.slow
def test_a_download_that_is_stopped_is_not_taken_for_whole(tiny_hub, studio_checkpoint, tmp_path, ended):
    jobs = Jobs(Service(studio_checkpoint), Store(tmp_path / "out")).start()
    shelf = Shelf(jobs, {}, Hub())
    try:
        found = shelf.plan("hf:org/name")
        tiny_hub.hold.clear()
        task = shelf.download(found)
        while not any(asked.startswith("GET /org/name/resolve") for asked in tiny_hub.asked):
            assert not task.done, task.words
            time.sleep(0.02)
        shelf.stop(task.id)
        assert ended(task).wrong and "was stopped" in task.words
        tiny_hub.hold.set()
        with pytest.raises(NotHere):
            shelf.load("hf:org/name")
        assert not ended(shelf.download(found)).wrong
    finally:
        jobs.close()


@pytest.mark.slow
def test_a_tokenizers_weights_are_planned_and_fetched(tiny_hub, studio_checkpoint, tmp_path, ended, monkeypatch):
    from rpiae.tokenizers import available, maskgit

    published = replace(maskgit.PUBLISHED, hub_id="org/name", file="big.bin")
    monkeypatch.setattr(maskgit, "PUBLISHED", published)
    monkeypatch.setattr(maskgit, "find", published.find)
    shelf = Shelf(Jobs(Service(studio_checkpoint), Store(tmp_path / "out")), {}, Hub())
    assert "maskgit-vqgan=random" in shelf.service.tokenizers_without_weights()
    found = shelf.plan_tokenizer("maskgit-vqgan")
    assert (found.host, found.files) == ("127.0.0.1", (("big.bin", 1000),))
    assert not any("/resolve/" in asked for asked in tiny_hub.asked)
    task = ended(shelf.download_tokenizer("maskgit-vqgan", found))
    assert not task.wrong and task.words == "MaskGIT VQGAN is on this machine now and can be compared."
    fetched = {asked.rpartition("/")[2] for asked in tiny_hub.asked if "/resolve/" in asked}
    assert fetched == {"big.bin"}  # nothing of the repository's checkpoint
    assert "maskgit-vqgan" in available() and published.find().read_bytes() == bytes(1000)
    for name in ("fae-d32", "rpiae", "no such"):
        with pytest.raises(ValueError, match="No weights of"):
            shelf.plan_tokenizer(name)
    with pytest.raises(ValueError, match="started without the hub"):
        Shelf(shelf.jobs, {}, Hub(allowed=False)).plan_tokenizer("sd-vae")
