"""What fills a form again: a job, a recipe, a link. Every value is checked, and what cannot be had is said."""

from dataclasses import replace
from types import SimpleNamespace
from urllib.parse import parse_qsl

import pytest
from PIL import Image

from app import settings
from app.request import EditRequest, GenerateRequest
from app.store import Record
from rpiae.recipe import Recipe, save_png

DEFAULTS = {"num_inference_steps": 30, "guidance_scale": 3.0, "image_guidance_scale": 1.5}
PICTURE = Image.new("RGB", (40, 30), "red")
HERE = SimpleNamespace(
    name="stickers", facts=SimpleNamespace(name="stickers", sha256="a" * 64, device="CPU", dtype="float32")
)
RECIPE = Recipe(
    kind="edit", prompt="make it blue", seed=7, num_inference_steps=20, guidance_scale=2.5, image_guidance_scale=1.2,
    preserve_unchanged=False, checkpoint="stickers", checkpoint_sha256="a" * 64, device="cpu", dtype="float32",
)  # fmt: skip


def record(request, **picture) -> Record:
    plain = request.to_json()
    return Record(id="x", request=plain, pictures=({"seed": request.seed, "recipe": None, **picture},))


def test_a_jobs_settings_have_the_checkpoints_own_written_out():
    asked = EditRequest(PICTURE, "make it blue", seed=7, guidance_scale=4, count=3, preserve_unchanged=False)
    found = settings.from_record(record(asked), DEFAULTS)
    assert found.kind == "edit" and found.notes == ()
    assert found.values == {
        "prompt": "make it blue", "negative_prompt": "", "seed": 7, "num_inference_steps": 30, "guidance_scale": 4.0,
        "count": 3, "image_guidance_scale": 1.5, "preserve_unchanged": False,
    }  # fmt: skip
    assert settings.from_record(Record(id="x", request={"kind": "compare"}), DEFAULTS) is None


def test_a_recipe_in_a_file_fills_every_field(tmp_path):
    save_png(PICTURE, tmp_path / "old.png", RECIPE)
    recipe, wrong = settings.recipe_in(str(tmp_path / "old.png"))
    found = settings.from_recipe(recipe, HERE)
    assert wrong == "" and found.notes == ()
    assert found.values == {
        "prompt": "make it blue", "negative_prompt": "", "seed": 7, "num_inference_steps": 20, "guidance_scale": 2.5,
        "count": 1, "image_guidance_scale": 1.2, "preserve_unchanged": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"checkpoint_sha256": "b" * 64}, "another checkpoint (stickers, SHA-256 bbbbbbbbbbbb…)"),
        ({"device": "cuda:0", "dtype": "bfloat16"}, "made on GPU, bfloat16; here it is CPU, float32"),
        ({"source_sha256": "c" * 64}, "cccccccccccc"),
        ({"mask_sha256": "d" * 64}, "Where the edit was allowed"),
        ({"guidance_interval": (0.2, 0.8)}, "guided from 0.2 to 0.8"),
        ({"num_inference_steps": 10_000}, "Steps is 10000"),
    ],
)
def test_what_a_recipe_cannot_bring_back_is_said(change, words):
    found = settings.from_recipe(replace(RECIPE, **change), HERE)
    assert len(found.notes) == 1 and words in found.notes[0]
    assert found.values["prompt"] == "make it blue"


def test_files_without_a_recipe_and_with_a_broken_one(tmp_path):
    PICTURE.save(tmp_path / "plain.png")
    (tmp_path / "words.png").write_text("no picture")
    for name in ("plain.png", "words.png", "missing.png"):
        assert settings.recipe_in(str(tmp_path / name)) == (None, "")
    assert settings.recipe_in(None) == (None, "")
    from PIL.PngImagePlugin import PngInfo

    texts = PngInfo()
    texts.add_itxt("rpiae", '{"kind": "edit", "seed": "many"}')
    PICTURE.save(tmp_path / "broken.png", pnginfo=texts)
    recipe, wrong = settings.recipe_in(str(tmp_path / "broken.png"))
    assert recipe is None and "not a whole recipe" in wrong
    assert settings.from_recipe(Recipe(kind="reconstruct"), HERE) is None


@pytest.mark.parametrize(
    "request_",
    [
        EditRequest(PICTURE, "make “it” blue & green", seed=2**31 - 1, guidance_scale=2.5, preserve_unchanged=False),
        GenerateRequest("a cat", seed=0, negative_prompt="a dog", num_inference_steps=12),
    ],
    ids=lambda request: request.kind,
)
def test_a_link_and_back_is_the_same_form(request_):
    link = settings.to_query(record(request_))
    assert link.startswith("?tab=")
    query = dict(parse_qsl(link[1:]))
    found = settings.from_query(query, request_.kind)
    asked = {name: value for name, value in request_.to_json().items() if name in found.values}
    assert found.values == asked and found.values["seed"] == request_.seed and found.notes == ()
    assert settings.from_query(query, "compare") is None


def test_a_link_names_the_seed_of_its_own_picture_and_what_the_recipe_knows():
    asked = GenerateRequest("a cat", seed=7, count=2)
    link = settings.to_query(record(asked, seed=8, recipe={"num_inference_steps": 30, "guidance_scale": 3.0}))
    assert dict(parse_qsl(link[1:])) == {
        "tab": "generate", "prompt": "a cat", "seed": "8", "steps": "30", "guidance": "3.0",
    }  # fmt: skip


def test_a_link_to_a_class_has_its_guidance_interval():
    asked = GenerateRequest("", seed=7, class_label=3, guidance_interval=(0.1, 0.9))
    link = settings.to_query(record(asked, recipe={"guidance_interval": [0.1, 0.9], "guidance_scale": 1.5}))
    found = settings.from_query(dict(parse_qsl(link[1:])), "generate")
    assert (found.values["guidance_interval"], found.values["class_label"], found.notes) == ((0.1, 0.9), 3, ())
    whole = settings.to_query(record(GenerateRequest("", seed=7, class_label=3, guidance_interval=(0, 1))))
    assert "interval" not in whole
    for wrong in ("0.9,0.1", "0.5", "a,b"):
        found = settings.from_query({"tab": "generate", "class": "3", "interval": wrong}, "generate")
        assert "guidance_interval" not in found.values and "uidance interval" in found.notes[0]


def test_of_jobs_with_one_picture_the_one_with_the_same_mask_is_found():
    def kept(job: str, mask: str | None) -> Record:
        recipe = {"source_sha256": "s", "mask_sha256": mask}
        return Record(id=job, request={}, source={"file": "source.png"}, pictures=({"recipe": recipe},))

    history = [kept("newest", None), kept("left", "l"), kept("right", "r")]
    jobs = SimpleNamespace(history=lambda owner: history)
    found = {mask: settings.source_record(jobs, "anna", "s", mask).id for mask in (None, "l", "r", "gone")}
    assert found == {None: "newest", "l": "left", "r": "right", "gone": "newest"}
    assert not settings.has_mask(history[0], "gone") and settings.has_mask(history[0], None)
    assert settings.source_record(jobs, "anna", "other", "l") is None


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"seed": "-1"}, "Seed is -1"),
        ({"seed": "nan"}, "Seed must be a number"),
        ({"seed": "9" * 500}, "Seed is 9"),
        ({"steps": "many"}, "Steps must be a number"),
        ({"guidance": "1e9"}, "must be between"),
        ({"prompt": "x" * 3000}, "3000 characters"),
        ({"prompt": ""}, "Describe the picture"),
    ],
)
def test_what_a_link_asks_in_vain_is_said_and_left_out(query, words):
    found = settings.from_query({"tab": "generate", **query}, "generate")
    assert found.values == {} and len(found.notes) == 1 and words in found.notes[0]
