"""Finding stickers anywhere: the gains are what they claim, and what was drawn is found."""

from dataclasses import replace

import numpy as np

from train.data.scenes import Scene, Sticker, draw, sample_scene
from train.data.scenes.backgrounds import background
from train.evaluate.accuracy import degraded
from train.evaluate.bank import CELL, Gains, bank
from train.evaluate.finder import find, sight_of
from train.evaluate.hypotheses import pooled
from train.evaluate.judge import same_color


def test_gains_are_differences_of_squared_errors():
    """Small boxes are 62 pixels in 8 cells, so with the centre at 32 + 8 k the cells are the picture's own."""
    scene = Scene("lavender", "flat", None, (Sticker("heart", "red", "small", 104, 72),))
    picture, empty = draw(scene), background("lavender")
    gains = Gains(picture, empty).at("small", np.array([[104, 72]]))[:, 0]
    looks = bank("small").looks
    assert looks[int(gains.argmax())][0].noun == "heart"
    box = np.s_[72 // CELL - 4 : 72 // CELL + 4, 104 // CELL - 4 : 104 // CELL + 4]
    before = np.square(pooled(picture, CELL)[box] - pooled(empty, CELL)[box]).sum() / 255**2
    for noun, color in (("heart", "red"), ("cat", None)):
        index = next(i for i, (one, style) in enumerate(looks) if (one.noun, one.color, style) == (noun, color, "flat"))
        other = draw(scene.with_object(0, replace(scene.objects[0], noun=noun, color=color)))
        after = np.square(pooled(picture, CELL)[box] - pooled(other, CELL)[box]).sum() / 255**2
        assert abs(gains[index] - (before - after)) < 0.02 * before


def test_no_gain_exceeds_its_bound():
    scene = sample_scene(np.random.default_rng(1), count=3)
    gains = Gains(draw(scene), background(scene.background))
    centres = np.random.default_rng(2).integers(60, 196, (40, 2))
    for size in ("small", "medium", "large"):
        assert (gains.at(size, centres).max(0) <= gains.most(size, centres) + 1e-3).all()


def places(sight):
    return {
        (one.sticker.noun, one.sticker.size, one.sticker.cx, one.sticker.cy, one.sticker.text) for one in sight.objects
    }


def test_finds_what_was_drawn_exactly():
    rng = np.random.default_rng(41)
    for _ in range(5):
        scene = sample_scene(rng, unseen=True)
        sight = find(draw(scene))
        assert sight.background == scene.background and sight.style == scene.style
        assert places(sight) == places(sight_of(scene))
        for one in sight.objects:
            true = next(o for o in scene.objects if (o.cx, o.cy) == (one.sticker.cx, one.sticker.cy))
            assert same_color(true.noun, scene.style, true.color, one.sticker.color)


def test_finds_degraded_stickers_within_a_few_pixels():
    rng = np.random.default_rng(42)
    missed = total = 0
    for _ in range(4):
        scene = sample_scene(rng, unseen=True)
        seen = [one.sticker for one in find(degraded(draw(scene), rng)).objects]
        for true in scene.objects:
            total += 1
            near = [one for one in seen if abs(one.cx - true.cx) + abs(one.cy - true.cy) <= 4]
            missed += not any((one.noun, one.size) == (true.noun, true.size) for one in near)
        assert len(seen) <= len(scene.objects) + 1
    assert missed <= 1 < total


def test_nothing_is_found_where_nothing_is():
    for name in ("white", "black", "night sky", "city"):
        sight = find(degraded(draw(Scene(name, "flat")), np.random.default_rng(0)))
        assert sight.background == name and sight.objects == () and sight.style is None


def test_touching_stickers_are_two():
    """Generated layouts need not be legal."""
    scene = Scene(
        "gray", "flat", None, (Sticker("apple", None, "medium", 90, 128), Sticker("dog", None, "medium", 160, 128))
    )
    assert {one.sticker.noun for one in find(draw(scene)).objects} == {"apple", "dog"}
