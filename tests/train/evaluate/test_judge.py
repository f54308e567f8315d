"""The judge of known places: accepts true pictures, also degraded and a little shifted, and rejects false ones."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from train.data.scenes import CATEGORIES, Scene, Sticker, draw, sample_edit, sample_scene
from train.data.scenes.scene import problems
from train.evaluate.accuracy import SPOILS, degraded, spoiled
from train.evaluate.hypotheses import shifted
from train.evaluate.judge import PIXELATED, blockiness, judge_scene, same_color


def scenes(count, filtered=0.3):
    rng = np.random.default_rng(31)
    return [sample_scene(rng, unseen=True, filtered=filtered) for _ in range(count)]


def test_accepts_true_pictures():
    for scene in scenes(8):
        verdict = judge_scene(draw(scene), scene)
        assert verdict.ok, (scene, verdict.notes)


def test_accepts_degraded_true_pictures():
    rng = np.random.default_rng(1)
    refused = [scene for scene in scenes(10) if not judge_scene(degraded(draw(scene), rng), scene).ok]
    assert len(refused) <= 1, refused


def test_accepts_stickers_that_are_a_few_pixels_off():
    rng = np.random.default_rng(2)
    for scene in scenes(6, filtered=0):
        off = tuple(shifted(one, *rng.integers(-4, 5, 2).tolist()) for one in scene.objects)
        verdict = judge_scene(draw(replace(scene, objects=off)), scene)
        assert verdict.ok, (scene, verdict.notes)


@pytest.mark.parametrize("kind", SPOILS)
def test_rejects_scenes_with_one_attribute_wrong(kind):
    rng = np.random.default_rng(3)
    for index in range(3):
        scene, wrong = spoiled(kind, rng, filtered=0.3)
        picture = draw(wrong) if index else degraded(draw(wrong), rng)
        assert not judge_scene(picture, scene).ok, (scene, wrong)


def test_a_soft_sticker_is_no_pixel_filter():
    """On an even ground it is all there is to judge by: 4 x 4 blocks fit it about as well as the sharp drawing."""
    scene = Scene("gray", "flat", None, (Sticker("car", "blue", "medium", 128, 128),))
    soft = gaussian_filter(draw(scene).astype(np.float32), (1.5, 1.5, 0))
    picture = (0.7 * soft + 0.3 * draw(replace(scene, filter="pixel"))).round().astype(np.uint8)
    assert 0 < blockiness(picture, draw(scene)) < PIXELATED
    assert judge_scene(picture, scene).checks["filter"]
    pixels = replace(scene, filter="pixel")
    assert not judge_scene(degraded(draw(pixels), np.random.default_rng(0)), scene).checks["filter"]


@pytest.mark.parametrize("category", CATEGORIES)
def test_an_edit_is_accepted_when_done_and_rejected_when_not(category):
    rng = np.random.default_rng(4)
    for _ in range(2):
        edit = sample_edit(rng, category, unseen=True)
        assert judge_scene(draw(edit.target), edit.target).ok
        assert not judge_scene(draw(edit.source), edit.target).ok, edit


def test_the_verdict_says_what_is_wrong():
    scene = Scene("beach", "flat", None, (Sticker("car", "blue", "medium", 128, 128),))
    red = judge_scene(draw(scene.with_object(0, replace(scene.objects[0], color="red"))), scene)
    assert red.failed == ["color 0"] and red.notes["color 0"] == "red"
    bus = judge_scene(draw(scene.with_object(0, replace(scene.objects[0], noun="bus"))), scene)
    assert "noun 0" in bus.failed and bus.notes["noun 0"] == "blue bus"
    sea = judge_scene(draw(replace(scene, background="sea")), scene)
    assert "background" in sea.failed and sea.notes["background"] == "sea"
    more = replace(scene, objects=(*scene.objects, Sticker("cat", None, "small", 43, 43)))
    assert judge_scene(draw(more), scene).failed == ["nothing else"]


def test_own_colors_and_their_name_read_alike():
    assert same_color("horse", "flat", None, "brown") and same_color("horse", "flat", "brown", "brown")
    assert not same_color("horse", "flat", None, "red") and not same_color("horse", "flat", "brown", "red")


def test_spoiled_scenes_are_legal():
    rng = np.random.default_rng(5)
    for kind in SPOILS:
        scene, wrong = spoiled(kind, rng)
        assert not problems(scene) and not problems(wrong) and scene != wrong


def test_only_pictures_are_judged():
    with pytest.raises(ValueError, match=r"uint8 picture of shape \(256, 256, 3\), not float64"):
        judge_scene(np.zeros((256, 256, 3)), scenes(1)[0])
    with pytest.raises(ValueError, match=r"not uint8 \(64, 64, 3\)"):
        judge_scene(np.zeros((64, 64, 3), np.uint8), scenes(1)[0])
