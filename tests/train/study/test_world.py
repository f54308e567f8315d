"""The study's small world: nothing but its own nouns, backgrounds and edits, seen smaller, and gone after the block."""

import numpy as np
import pytest
import torch

from train.data.pictures import IGNORE
from train.data.scenes import CATEGORIES, VOCABULARY, sample_scene
from train.evaluate.bank import bank
from train.evaluate.prompts import sample_prompts
from train.study.config import WorldSettings, load_study
from train.study.judged import ceiling
from train.study.world import WorldPairs, WorldPictures, belongs, coarser, for_judge, inhabited, sample_world_edit, seen

WORLD = load_study("smoke").world


def test_all_that_is_drawn_is_of_the_world():
    rng = np.random.default_rng(0)
    before = dict(VOCABULARY.__dict__)
    with inhabited(WORLD):
        scenes = [sample_scene(rng) for _ in range(60)]
        edits = [sample_world_edit(rng, WORLD) for _ in range(20)]
        prompts = [one for skill in ("single object", "position") for one in sample_prompts(skill, 20)]
        looks = {look.noun for look, _ in bank("small").looks}
    assert {one.noun for scene in scenes for one in scene.objects} == set(WORLD.nouns)
    assert {scene.style for scene in scenes} == {"flat"}
    assert {scene.background for scene in scenes} == set(WORLD.backgrounds)
    assert {edit.category for edit in edits} == {"color_alter"}
    assert all(belongs(side, WORLD) for edit in edits for side in (edit.source, edit.target))
    assert {wanted.noun for one in prompts for wanted in one.claims.objects} == set(WORLD.nouns)
    assert looks == {*WORLD.nouns, "sign"}
    # Afterwards everything is as it was.
    assert {name: VOCABULARY.__dict__[name] for name in before} == before
    assert len({sample_scene(rng).background for _ in range(100)}) > len(WORLD.backgrounds)


def test_names_that_the_vocabulary_lacks_are_told():
    for changes, words in (
        ({"nouns": ("apple", "appel")}, "world.nouns.*appel"),
        ({"nouns": ("apple", "car")}, "of world.nouns 2 can stand in one scene, which may need 6"),
        ({"nouns": ("tree", "pine tree", "palm tree", "bear", "teddy bear", "cat")}, "of world.nouns 3 can"),
        ({"categories": ("color",)}, "world.categories.*color"),
        ({"side": 100}, "world.side is 100; use 256, 128 or 64"),
        ({"sampling": {"n_objects": {"1": 1.0}}}, "scenes of 1, 2 and 3"),
    ):
        with pytest.raises(ValueError, match=words), inhabited(WORLD.model_copy(update=changes)):
            pass
    with inhabited(WORLD), pytest.raises(ValueError, match="no edit .text_change."):
        sample_world_edit(np.random.default_rng(0), WORLD, "text_change")


def test_pictures_are_means_and_come_back_enlarged():
    picture = torch.randint(0, 256, (3, 256, 256), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    small = seen(picture, WORLD)
    means = picture.float().unflatten(1, (64, 4)).unflatten(3, (64, 4)).mean((2, 4))
    assert small.shape == (3, 64, 64) and (small.float() - means).abs().max() <= 0.5
    assert torch.equal(seen(torch.stack([picture, picture]), WORLD)[1], small)
    assert seen(picture, WORLD.model_copy(update={"side": 256})) is picture
    (large,) = for_judge(torch.full((1, 3, 64, 64), 0.5))
    assert large.shape == (256, 256, 3) and large.dtype == np.uint8 and set(large.ravel()) == {128}


def test_a_cell_speaks_for_what_half_of_it_shows():
    color = torch.full((4, 4), IGNORE)
    color[:2, 0], color[3, 3] = 5, 7  # half of the first cell, a quarter of the last
    offset = torch.zeros(4, 4, 2)
    offset[0, 0], offset[1, 0], offset[3, 3] = (
        torch.tensor([0.3, 0.4]),
        torch.tensor([0.1, 0.0]),
        torch.tensor([0.0, 0.1]),
    )
    phrase = torch.arange(16).view(4, 4)
    found = coarser({"color": color, "offset": offset, "phrase": phrase}, 2)
    assert found["color"].tolist() == [[5, IGNORE], [IGNORE, IGNORE]]
    assert found["phrase"][0, 0] == 4 and torch.equal(found["offset"][0, 0], offset[1, 0])  # nearest to the middle
    assert found["phrase"][1, 1] in (10, 11, 14) and coarser({"color": color}, 1)["color"] is color


def test_items_depend_on_seed_and_number_alone():
    with inhabited(WORLD):
        pictures = WorldPictures(WORLD, 0, 1, 4, labels=True)
        item, again = pictures[2], WorldPictures(WORLD, 0, 1, 4)[2]
        assert item["image"].shape == (3, 64, 64) and torch.equal(item["image"], again["image"])
        assert item["color"].shape == (4, 4) and item["offset"].shape == (4, 4, 2) and set(again) == {"image", "index"}
        pairs = WorldPairs(WORLD, 0, 2, 4, (8, 4, 4), 2)
        first, second = pairs[1], WorldPairs(WORLD, 0, 2, 4, (8, 4, 4), 2)[1]
        assert first["images"].shape == (3, 3, 64, 64) and first["noise"].shape == (4, 2, 8, 4, 4)
        assert torch.equal(first["images"], second["images"]) and first["texts"] == second["texts"]
        wide = WorldPairs(WORLD, 0, 2, 4, (16, 4, 4), 2)[1]  # other latents have other noise, and nothing else
        for name in ("images", "uniform", "drop"):
            assert torch.equal(wide[name], first[name])


def test_no_picture_is_drawn_outside_of_the_world():
    """It would be one of all nouns, and a tokenizer of the study would learn from it without a word."""
    for make in (lambda: WorldPictures(WORLD, 0, 1, 4), lambda: WorldPairs(WORLD, 0, 2, 4, (8, 4, 4), 2)):
        with pytest.raises(RuntimeError, match="inside `with inhabited"):
            make()


@pytest.mark.slow
def test_the_judge_reads_pictures_of_half_the_size():
    """What the study's small world stands on: true pictures of 128 px, enlarged, are accepted."""
    world = load_study("stickers-128").world
    with inhabited(world):
        assert ceiling(world, 12) >= 0.9


def test_the_configs_are_whole():
    small, full = load_study("stickers-128"), load_study("stickers-256")
    assert full.on_cpu == small.name and full.world.nouns is None and len(small.world.nouns) == 14
    for study in (small, full):
        tokens = study.models.transformer["sample_size"] // study.models.transformer["patch_size"]
        width = study.models.bridge["latent_channels"] * (study.models.image_size // 16 // tokens) ** 2
        assert study.models.image_size == study.world.side and tokens == 8
        # A codebook's latent has as many numbers as the others'.
        assert (
            study.codebook.code_width * (study.codebook.split * study.models.image_size // 16 // tokens) ** 2 == width
        )
        with inhabited(study.world):
            pass
    assert set(small.world.categories) < set(CATEGORIES)
    with pytest.raises(ValueError, match="no study 'other'; there are: smoke, stickers-128, stickers-256"):
        load_study("other")
    with pytest.raises(ValueError, match="generator.sample: Extra inputs"):
        load_study("smoke", ["generator.sample=3"])
    assert isinstance(full.world, WorldSettings)
