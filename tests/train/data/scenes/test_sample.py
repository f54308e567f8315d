"""Sampling: legal, deterministic, with the promised shares, and never an unseen pair in training."""

from collections import Counter

import numpy as np
import pytest

from train.data.scenes import VOCABULARY, is_unseen, sample_scene, unseen_pairs
from train.data.scenes.sample import colors_of
from train.data.scenes.scene import problems

COUNT = 1500


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(11)
    return [sample_scene(rng) for _ in range(COUNT)]


def test_every_scene_is_legal(scenes):
    assert [problems(scene) for scene in scenes if problems(scene)] == []


def test_same_seed_same_scenes(scenes):
    rng = np.random.default_rng(11)
    assert [sample_scene(rng) for _ in range(50)] == scenes[:50]
    assert sample_scene(np.random.default_rng(12)) != scenes[0]


def test_unseen_pairs_are_a_tenth_and_never_drawn(scenes):
    assert is_unseen("cat", "blue") and not is_unseen("cat", "red") and not is_unseen("cat", None)
    pairs = [(noun, color) for noun in VOCABULARY.nouns for color in colors_of(noun, True)]
    unseen = [pair for pair in pairs if is_unseen(*pair)]
    assert 0.05 < len(unseen) / len(pairs) < 0.15
    assert any(noun == "sign" for noun, _ in pairs)
    assert not any(unseen_pairs(scene) for scene in scenes)


def test_evaluation_draws_unseen_pairs_too():
    rng = np.random.default_rng(0)
    assert sum(bool(unseen_pairs(sample_scene(rng, unseen=True))) for _ in range(300)) > 10


def share(found, expected):
    assert abs(found / COUNT - expected) < 4 * np.sqrt(expected * (1 - expected) / COUNT)


def test_shares_are_those_of_the_specification(scenes):
    counts = Counter(len(scene.objects) for scene in scenes)
    for number, expected in {1: 0.25, 2: 0.35, 3: 0.25, 4: 0.15}.items():
        share(counts[number], expected)
    counting = [scene for scene in scenes if len({one.noun for one in scene.objects}) < len(scene.objects)]
    share(len(counting), 0.75 * 0.2)
    share(sum(scene.count("sign") for scene in scenes), (1 - 0.75 * 0.2) * 0.08)
    share(sum(VOCABULARY.backgrounds[scene.background].kind == "plain" for scene in scenes), 0.5)
    share(sum(scene.style == "flat" for scene in scenes), 0.5)
    assert {scene.background for scene in scenes} == set(VOCABULARY.backgrounds)
    assert {one.color for scene in scenes for one in scene.objects} == {None, *VOCABULARY.colors}


def test_counting_scenes_repeat_one_look():
    rng = np.random.default_rng(4)
    for _ in range(100):
        looks = Counter(one.look for one in sample_scene(rng, counting=True).objects)
        assert max(looks.values()) >= 2 and len(looks) <= 2
        assert len(sample_scene(rng, counting=True, extra=True).objects) >= 3
        assert sample_scene(rng, sign=True).count("sign") == 1


def test_filters_only_when_asked(scenes):
    assert all(scene.filter is None for scene in scenes)
    rng = np.random.default_rng(2)
    filtered = [sample_scene(rng, filtered=0.5).filter is not None for _ in range(300)]
    assert 110 < sum(filtered) < 190
