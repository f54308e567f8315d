"""Choosing a checkpoint while the studio runs: loading, freeing, going back after a failure, drawing by class."""

import gc
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from app import checkpoint as checkpoints
from app.jobs import Jobs
from app.outcome import Progress
from app.request import CompareRequest, EditRequest, GenerateRequest, ReconstructRequest
from app.service import Service
from app.shelf import NotHere, Shelf, offers
from app.store import Store
from tests.app.helpers import end_of

GOLDEN = Path(__file__).resolve().parents[1] / "fixtures" / "golden"
DRAWN = {"class_label": 207, "seed": 5, "num_inference_steps": 4}


@pytest.fixture(scope="module")
def by_class(class_checkpoint) -> Service:
    loaded = Service(class_checkpoint)
    loaded.load()
    return loaded


@pytest.fixture
def changing(studio_checkpoint) -> Service:
    """A service of the test's own, to load other checkpoints with."""
    loaded = Service(studio_checkpoint)
    loaded.load()
    return loaded


@pytest.fixture
def shelf(studio_checkpoint, class_checkpoint, tmp_path):
    jobs = Jobs(Service(studio_checkpoint), Store(tmp_path / "out")).start()
    yield Shelf(jobs, offers(str(studio_checkpoint), str(class_checkpoint)))
    jobs.close()


@pytest.fixture
def broken(class_checkpoint, tmp_path) -> Path:
    """A checkpoint that looks right until its weights are read."""
    folder = tmp_path / "some where" / "broken"
    shutil.copytree(class_checkpoint, folder)
    weights = next(folder.glob("transformer/*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    return folder


# --- what is loaded ------------------------------------------------------------------------------------------------


def test_a_class_conditional_folder_is_known_before_it_is_loaded(class_checkpoint):
    waiting = Service(class_checkpoint)
    assert (waiting.state, waiting.kind, waiting.classes, waiting.side) == ("waiting", "classes", 1000, 64)
    assert waiting.can("class") and not waiting.can("edit") and not waiting.can("text")


def test_the_facts_of_a_class_conditional_folder(by_class, class_checkpoint):
    facts, held = by_class.facts, by_class._held
    assert (facts.kind, facts.name, facts.licence, facts.classes) == ("classes", "smoke-classes", "cc-by-4.0", 1000)
    assert (facts.latent_shape, facts.side, facts.dtype, facts.official) == ((8, 4, 4), 64, "float32", False)
    models = (held.pipeline.vae, held.pipeline.transformer)
    assert facts.parameters == sum(one.numel() for model in models for one in model.parameters())
    weights = sum(path.stat().st_size for path in class_checkpoint.rglob("*.safetensors"))
    assert facts.memory == pytest.approx(weights, rel=0.05)  # float32 in the files, too, and their headers
    assert str(class_checkpoint.parent) not in repr(facts)


def test_the_authors_files_as_they_are(by_class):
    authors = Service(GOLDEN)
    authors.load()
    assert (authors.facts.kind, authors.facts.official, authors.facts.classes) == ("classes", True, 10)
    files = authors._held.place.files
    assert [file.name for file in files] == ["rpiae_stage3_1_c8_ema.pt", "dit_ep-0000800.pt"]
    assert authors._held.pipeline.transformer.config.num_heads == 4  # told by the file, not the released 16
    [picture] = authors.run(GenerateRequest("", class_label=3, seed=1, num_inference_steps=3)).pictures
    assert picture.image.size == (64, 64) and picture.recipe.prompt is None
    assert authors.facts.sha256 != by_class.facts.sha256
    assert authors.class_choices()[3] == ("class 3", 3)


def test_the_authors_folder_as_they_released_it(tmp_path):
    from rpiae.official import RELEASED_TOKENIZER

    (tmp_path / "LightningDiT").mkdir()
    shutil.copy(GOLDEN / "rpiae_stage3_1_c8_ema.pt", tmp_path / RELEASED_TOKENIZER)
    shutil.copy(GOLDEN / "stage1_ep-0000016.pt", tmp_path / "rpiae_stage1_ep-0000016.pt")
    for ours, theirs in (("dit", "800"), ("dit_guidance", "020")):
        shutil.copy(GOLDEN / f"{ours}_ep-0000{theirs}.pt", tmp_path / "LightningDiT" / f"ep-0000{theirs}.pt")
    place = checkpoints.find(str(tmp_path))
    assert place.kind == "classes"
    assert [file.name for file in place.files] == [RELEASED_TOKENIZER, "ep-0000800.pt"]
    shutil.copy(GOLDEN / "rpiae_stage3_1_c8_ema.pt", tmp_path / "another.pt")
    assert checkpoints.find(str(tmp_path)).files == place.files  # the released one
    (tmp_path / RELEASED_TOKENIZER).rename(tmp_path / "mine.pt")
    with pytest.raises(ValueError, match=r"several tokenizers \(another.pt, mine.pt\)"):
        checkpoints.find(str(tmp_path))


def test_a_tokenizer_alone_reconstructs_and_compares(class_checkpoint, picture):
    official, folder = Service(GOLDEN / "rpiae_stage3_1_c8_ema.pt"), Service(class_checkpoint / "vae")
    for alone in (official, folder):
        alone.load()
        assert (alone.facts.kind, alone.facts.classes) == ("tokenizer", None)
        [row] = alone.run(CompareRequest(picture, ("rpiae",))).rows
        assert row.error is None and row.latent_shape == (8, 4, 4) and row.source == alone.facts.name
        [result] = alone.run(ReconstructRequest(picture.resize((50, 30)))).pictures
        assert result.image.size == (50, 30) and result.recipe.checkpoint == alone.facts.name
        for asked in (GenerateRequest("a cat"), GenerateRequest("", class_label=1), EditRequest(picture, "blue")):
            with pytest.raises(ValueError, match="tokenizer alone.*Models"):
                alone.run(asked)
    assert official.facts.sha256 != folder.facts.sha256


def test_compare_uses_the_loaded_weights_and_no_second_copy(by_class, picture):
    before = torch_models()
    [row] = by_class.run(CompareRequest(picture, ("rpiae",))).rows
    assert row.source == "smoke-classes" and row.psnr
    assert torch_models() == before


def torch_models() -> int:
    from rpiae import AutoencoderRPiAE

    gc.collect()
    return sum(type(one) is AutoencoderRPiAE for one in gc.get_objects())


# --- drawing by class ----------------------------------------------------------------------------------------------


def test_a_picture_by_class_and_its_recipe(by_class):
    asked = GenerateRequest("", count=2, guidance_scale=1.5, guidance_interval=(0.1, 0.9), **DRAWN)
    first, second = by_class.run(asked).pictures
    assert first.image.size == (64, 64) and first.image.tobytes() != second.image.tobytes()
    recipe = second.recipe
    assert (recipe.kind, recipe.class_label, recipe.prompt, recipe.seed) == ("generate", 207, "golden retriever", 6)
    assert recipe.guidance_interval == (0.1, 0.9) and recipe.negative_prompt is None
    assert type(recipe).from_json(recipe.to_json()) == recipe
    assert "golden retriever | class 207 | seed 6" in recipe.parameters()
    # What the recipe says is all that it takes.
    again = by_class._held.pipeline(
        [recipe.class_label],
        generator=torch.Generator().manual_seed(recipe.seed),
        num_inference_steps=recipe.num_inference_steps,
        guidance_scale=recipe.guidance_scale,
        guidance_interval=recipe.guidance_interval,
    ).images[0]
    assert np.abs(np.asarray(again, int) - np.asarray(second.image)).max() <= 1  # another batch size


def test_classes_of_equal_settings_share_a_batch(by_class):
    one = GenerateRequest("", count=2, **DRAWN)
    other = GenerateRequest("", **DRAWN | {"class_label": 3, "seed": 9})
    slower = GenerateRequest("", **DRAWN | {"num_inference_steps": 6})
    assert by_class.batch_key(one) == by_class.batch_key(other) != by_class.batch_key(slower)
    shares = by_class.draw([(one, Progress()), (other, Progress())])
    for request, drawn in zip((one, other), shares, strict=True):
        for image, alone in zip(drawn.images, by_class.run(request).pictures, strict=True):
            assert np.abs(np.asarray(image, int) - np.asarray(alone.image)).max() <= 1


def test_the_class_counts(by_class):
    one, other = (by_class.run(GenerateRequest("", **DRAWN | {"class_label": label})).pictures[0] for label in (1, 2))
    assert one.image.tobytes() != other.image.tobytes()


def test_steps_are_reported_and_a_stop_is_honoured(by_class):
    steps, progress = [], Progress()

    def report(done, total, preview):
        steps.append((done, total))
        if done == 3:
            progress.stop.set()

    progress.report = report
    outcome = by_class.run(GenerateRequest("", class_label=1, seed=1, num_inference_steps=30), progress)
    assert steps[:3] == [(1, 29), (2, 29), (3, 29)]  # the authors' grid of 30 times makes 29 steps
    assert outcome.stopped_at == len(steps) <= 4 and outcome.pictures[0].partial


def test_classes_have_imagenets_names(by_class):
    choices = by_class.class_choices()
    assert len(choices) == 1000 and choices[207] == ("golden retriever (207)", 207)
    assert by_class.class_name(999) == "toilet tissue"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"class_label": 1000}, "between 0 and 999"),
        ({"class_label": -1}, "between 0"),
        ({"class_label": "cat"}, "must be a number"),
        ({"class_label": 1.5}, "whole number"),
        ({"class_label": True}, "must be a number"),
        ({"class_label": 1, "num_inference_steps": 1}, "between 2 and 250"),
        ({"class_label": 1, "guidance_interval": (0.9, 0.1)}, "the smaller first"),
        ({"class_label": 1, "guidance_interval": 0.5}, "two numbers"),
    ],
)
def test_a_bad_class_request_is_one_sentence(by_class, asked, words):
    with pytest.raises(ValueError, match=words):
        by_class.run(GenerateRequest("", seed=1, **asked))


def test_a_request_of_the_wrong_kind_is_told_what_is_loaded(by_class, service, picture):
    with pytest.raises(ValueError, match="draws pictures by class; it cannot edit"):
        by_class.run(EditRequest(picture, "make it blue"))
    with pytest.raises(ValueError, match="not from text"):
        by_class.run(GenerateRequest("a cat"))
    with pytest.raises(ValueError, match="not by class"):
        service.run(GenerateRequest("", class_label=1))


# --- loading another, freeing --------------------------------------------------------------------------------------


def test_the_old_one_is_freed_before_the_new_one_is_read(changing, class_checkpoint, monkeypatch):
    old = [weakref.ref(changing._held.vae), weakref.ref(changing._held.pipeline.transformer)]
    read, seen = checkpoints.read, []

    def watched(place, *rest):
        seen.extend(ref() is None for ref in old)
        return read(place, *rest)

    monkeypatch.setattr(checkpoints, "read", watched)
    changing.switch(str(class_checkpoint))
    assert seen == [True, True]
    assert (changing.state, changing.name, changing.kind) == ("ready", "smoke-classes", "classes")
    assert changing.defaults["guidance_scale"] == 1.0 and changing.side == 64


def test_a_checkpoint_that_cannot_be_read_leaves_the_old_one_at_work(changing, broken):
    asked = GenerateRequest("a cat", seed=3)
    before = changing.run(asked).pictures[0].image.tobytes()
    key, sha256 = changing.key, changing.facts.sha256
    with pytest.raises(ValueError) as fault:
        changing.switch(str(broken))
    assert "broken/transformer" in str(fault.value) and "some where" not in str(fault.value)
    assert (changing.state, changing.key, changing.facts.sha256) == ("ready", key, sha256)
    assert changing.run(asked).pictures[0].image.tobytes() == before


def test_a_wrong_folder_gives_nothing_up(changing, tmp_path):
    held = changing._held
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (tmp_path / "empty").mkdir()
    wrong = {
        tmp_path / "other": "holds a StableDiffusionPipeline",
        tmp_path / "empty": "no checkpoint at “empty”",
        tmp_path / "nothing": "no checkpoint at “nothing”",
        GOLDEN / "dit_ep-0000800.pt": "LightningDiT alone",
        GOLDEN / "stage1_ep-0000016.pt": "stage-1 tokenizer",
        "hf:no-id": "no id on the hub",
        "~nobody-of-this-name/x": "no checkpoint at “x”",
        "x" * 5000: "cannot be opened",
        "a\0b": "no checkpoint at",
        "/": "no checkpoint at “/”",
    }
    for source, words in wrong.items():
        with pytest.raises(ValueError, match=words) as fault:
            changing.switch(str(source))
        assert str(tmp_path) not in str(fault.value) and str(GOLDEN.parent) not in str(fault.value)
    assert changing._held is held


def test_after_free_the_memory_is_given_back_and_a_request_loads_it_again(changing):
    old = weakref.ref(changing._held.vae)
    changing.free()
    assert old() is None
    assert (changing.state, changing.facts, changing.name, changing.kind) == ("free", None, "smoke-studio", "editor")
    assert changing.run(GenerateRequest("a cat", seed=3)).pictures
    assert changing.state == "ready"


def test_a_failure_while_nothing_is_loaded_leaves_it_free(changing, broken):
    changing.free()
    with pytest.raises(ValueError):
        changing.switch(str(broken))
    assert (changing.state, changing.name) == ("free", "smoke-studio")


# --- between jobs --------------------------------------------------------------------------------------------------


def test_jobs_that_wait_are_finished_first_with_what_they_were_asked_of(shelf):
    jobs = shelf.jobs
    before = [jobs.submit(GenerateRequest("a cat", seed=seed, num_inference_steps=8)) for seed in (1, 2)]
    task = shelf.load("smoke-classes")
    assert "2 jobs before it" in task.words or task.done
    after = jobs.submit(GenerateRequest("", **DRAWN))
    last = end_of(jobs, after)
    assert last.state == "done" and task.done and not task.wrong, last.message
    names = [jobs.snapshot(job).record.pictures[0]["recipe"]["checkpoint"] for job in (*before, after)]
    assert names == ["smoke-studio", "smoke-studio", "smoke-classes"]
    assert task.loaded == "smoke-classes"


def test_one_thing_at_a_time_and_a_failure_is_told_with_what_is_there(shelf, broken, ended):
    job = shelf.jobs.submit(GenerateRequest("a cat", seed=1, num_inference_steps=30))
    first = shelf.load(str(broken))
    with pytest.raises(ValueError, match="being loaded just now"):
        shelf.free()
    assert shelf.current() is first
    assert ended(first).wrong and "smoke-studio is in its place as before" in first.words
    assert str(broken.parent) not in first.words
    assert shelf.jobs.snapshot(job).record.state == "done"
    assert ended(shelf.free()).words.startswith("smoke-studio is free")
    assert shelf.current() is None and shelf.service.state == "free"


def test_a_public_server_loads_what_it_offers_and_nothing_else(shelf, class_checkpoint, ended):
    shelf.service.allow_paths = False
    for typed in (str(class_checkpoint), "/etc", "hf:org/name", "../x", ""):
        with pytest.raises(ValueError, match="only the checkpoints that it offers: smoke-studio|Name a checkpoint"):
            shelf.load(typed)
        with pytest.raises(ValueError):
            shelf.plan(typed)
    assert not ended(shelf.load("smoke-classes")).wrong


def test_a_hub_id_that_is_not_here_is_not_loaded(shelf):
    with pytest.raises(NotHere, match="not on this machine"):
        shelf.load("hf:org/name")
    assert shelf.service.state != "failed"
