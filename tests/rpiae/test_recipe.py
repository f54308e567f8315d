"""A recipe goes into the PNG and comes out again; files are written whole or not at all."""

import json
import os
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from rpiae.recipe import Recipe, check_writable, folder_sha256, pixels_sha256, read, save_png, versions

RECIPE = Recipe(
    kind="edit",
    prompt='make the car "blue",\nnot grün 🚗',
    seed=2147483647,
    num_inference_steps=20,
    guidance_scale=4.0,
    image_guidance_scale=1.5,
    preserve_unchanged=True,
    width=300,
    height=200,
    checkpoint="stickers-256",
    versions={"torch": "2.10.0"},
)


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8))


def test_json_there_and_back():
    assert Recipe.from_json(RECIPE.to_json()) == RECIPE
    bare = Recipe(kind="reconstruct")
    assert Recipe.from_json(bare.to_json()) == bare
    assert json.loads(RECIPE.to_json())["seed"] == 2147483647


def test_a_recipe_is_frozen_and_dated():
    with pytest.raises(FrozenInstanceError):
        RECIPE.seed = 1
    assert RECIPE.time.endswith("+00:00") and len(RECIPE.time) == 25


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("no json", "Invalid JSON"),
        ("[]", "recipe"),
        ("{}", "kind"),
        ('{"kind": "dream"}', "kind"),
        ('{"kind": "edit", "seed": "7"}', "seed"),
        ('{"kind": "edit", "seed": 7.5}', "seed"),
        ('{"kind": "edit", "colour": "blue"}', "colour"),
        ('{"kind": "edit", "versions": {"torch": 2}}', "versions.torch"),
    ],
)
def test_broken_recipes_say_what_is_wrong(text, word):
    with pytest.raises(ValueError, match=word) as caught:
        Recipe.from_json(text)
    assert "\n" not in str(caught.value)


def test_png_keeps_pixels_and_recipe(tmp_path):
    path = tmp_path / "out.png"
    save_png(picture(), path, RECIPE)
    with Image.open(path) as image:
        assert np.array_equal(image, picture())
        assert image.text["parameters"] == RECIPE.parameters()
        assert read(image) == RECIPE
    assert read(path) == read(str(path)) == RECIPE
    assert os.listdir(tmp_path) == ["out.png"]


def test_parameters_are_one_line_for_people():
    line = RECIPE.parameters()
    assert "\n" not in line
    for part in ('make the car "blue", not grün 🚗', "seed 2147483647", "steps 20", "300x200"):
        assert part in line
    assert replace(RECIPE, negative_prompt="a hat").parameters().count("without a hat") == 1
    assert Recipe(kind="reconstruct").parameters() == "reconstruct"


def test_pictures_without_and_with_a_broken_recipe(tmp_path):
    save_png(picture(), tmp_path / "plain.png")
    assert read(tmp_path / "plain.png") is None
    picture().save(tmp_path / "photo.jpg")
    assert read(tmp_path / "photo.jpg") is None
    texts = PngImagePlugin.PngInfo()
    texts.add_text("rpiae", '{"kind": "edit"')
    picture().save(tmp_path / "broken.png", pnginfo=texts)
    with pytest.raises(ValueError, match="not a whole recipe"):
        read(tmp_path / "broken.png")
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(ValueError, match="not a picture"):
        read(tmp_path / "text.png")


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "out.png"
    save_png(picture(), path, RECIPE)
    before = path.read_bytes()
    written = []

    def full_disk(self, stream, *rest, **options):
        stream.write(b"half a picture")
        written.append(stream.name)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_png(picture(1), path, RECIPE)
    assert written and path.read_bytes() == before and os.listdir(tmp_path) == ["out.png"]


def test_places_that_cannot_be_written_are_told_before_the_work(tmp_path):
    (tmp_path / "folder.png").mkdir()
    for name, word in (
        ("out.jpg", "must end in .png"),
        ("out", "must end in .png"),
        ("folder.png", "is a folder"),
        ("none/out.png", "no folder"),
    ):
        for attempt in (check_writable, lambda path: save_png(picture(), path)):
            with pytest.raises(ValueError, match=word):
                attempt(tmp_path / name)
    assert os.listdir(tmp_path) == ["folder.png"]


def test_pixel_checksums_tell_pictures_apart_and_not_files(tmp_path):
    picture().save(tmp_path / "a.bmp")
    with Image.open(tmp_path / "a.bmp") as image:
        assert pixels_sha256(image) == pixels_sha256(picture())
    flat = Image.new("L", (30, 20))
    sums = {pixels_sha256(image) for image in (picture(), picture(1), flat, flat.resize((20, 30)))}
    assert len(sums) == 4


def test_folder_checksum_follows_names_and_contents(tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}")
    first = folder_sha256(tmp_path)
    (tmp_path / "README.md").write_text("not part of it")
    assert folder_sha256(tmp_path) == first
    (tmp_path / "config.json").write_text("{ }")
    second = folder_sha256(tmp_path)
    (tmp_path / "vae" / "model.safetensors").rename(tmp_path / "vae" / "other.safetensors")
    assert len({first, second, folder_sha256(tmp_path)}) == 3


def test_measurements_in_the_folder_do_not_make_it_another_checkpoint(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    before = folder_sha256(tmp_path)
    for name in ("tables.json", "training.json"):
        (tmp_path / name).write_text("{}")
    assert folder_sha256(tmp_path) == before


def test_whoever_stuffs_a_recipe_is_told_in_a_short_sentence():
    with pytest.raises(ValueError, match="more than 64 KiB of text"):
        Recipe.from_json('{"kind": "' + "x" * 70_000)
    with pytest.raises(ValueError) as error:
        Recipe.from_json(json.dumps({"kind": "edit"} | {f"n{i}": 0 for i in range(5000)}))
    assert str(error.value).count("Unexpected keyword") == 5 and str(error.value).endswith("; ...).")


def test_a_single_file_and_the_authors_files_have_checksums(tmp_path):
    (tmp_path / "tokenizer.pt").write_bytes(b"weights")
    (tmp_path / "copy.pt").write_bytes(b"weights")
    both, one = folder_sha256(tmp_path), folder_sha256(tmp_path / "tokenizer.pt")
    assert both != one != folder_sha256(tmp_path / "copy.pt")  # the name counts
    (tmp_path / "copy.pt").write_bytes(b"other weights")
    assert folder_sha256(tmp_path) != both and folder_sha256(tmp_path / "tokenizer.pt") == one


def test_a_class_has_its_place_in_a_recipe():
    recipe = Recipe(kind="generate", prompt="tench", class_label=0, seed=3, guidance_interval=(0.1, 0.9))
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert recipe.parameters() == "tench | class 0 | seed 3"


def test_versions_name_what_decides_the_pixels():
    assert {"torch", "diffusers", "transformers"} <= set(versions())
