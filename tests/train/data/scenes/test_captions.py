"""Captions say what is there and nothing else."""

import re

import numpy as np
import pytest

from train.data.scenes import VOCABULARY, Scene, Sticker, caption, sample_scene
from train.data.scenes.captions import group_phrase, listed, object_phrase
from train.data.scenes.scene import relation

V = VOCABULARY
RELATIONS = {words: name for name, ways in V.grammar["relations"].items() for words in ways}


def captions(scene, count=20_000):
    rng = np.random.default_rng(0)
    return {caption(scene, rng) for _ in range(count)}


def test_articles():
    assert object_phrase("apple") == "an apple"
    assert object_phrase("apple", "red") == "a red apple"
    assert object_phrase("cat", "orange") == "an orange cat"
    assert object_phrase("cat", "orange", "small") == "a small orange cat"
    assert object_phrase("sign", None, "large", "HI") == 'a large sign that says "HI"'
    assert group_phrase("mushroom", 2, "red") == "two red mushrooms"
    assert listed(["a", "b", "c"]) == "a, b and c"


def test_every_form_of_two_objects():
    scene = Scene(
        "meadow",
        "flat",
        "sepia",
        (Sticker("cat", None, "small", 43, 43), Sticker("apple", "red", "small", 213, 43)),
    )
    said = captions(scene)
    assert "a cat to the left of a red apple, in sepia" in said
    assert "in a meadow, a red apple right of a cat, in sepia" in said
    assert "there is a cat and a red apple in a meadow, in sepia" in said
    assert any("a cat at the top left and a red apple in the top right corner" in text for text in said)
    assert any("as flat stickers" in text for text in said) and not any("outlined" in text for text in said)
    assert not any("medium" in text or "large" in text for text in said)


def test_alike_objects_are_counted():
    cats = tuple(Sticker("cat", None, "small", x, 43) for x in (43, 128, 213))
    said = captions(Scene("white", "flat", None, cats))
    assert {"three cats", "there are three small cats on a white background"} <= said
    assert not any("left" in text for text in said)  # a group has no place


def test_relations_said_are_true():
    rng = np.random.default_rng(8)
    checked = 0
    for _ in range(400):
        scene = sample_scene(rng, count=2, counting=False)
        text = caption(scene, rng)
        found = next(
            (words for words in sorted(RELATIONS, key=len, reverse=True) if f" {words} " in text), None
        )
        if found is None:
            continue
        first, second = sorted(scene.objects, key=lambda one: re.search(rf"\b{one.noun}\b", text).start())
        assert relation(first, second) == RELATIONS[found], text
        checked += 1
    assert checked > 60


def test_colors_and_nouns_said_are_true():
    rng = np.random.default_rng(9)
    for _ in range(200):
        scene = sample_scene(rng)
        text = caption(scene, rng)
        for noun in {one.noun for one in scene.objects}:
            assert noun in text or V.nouns[noun].plural in text
        for color in V.colors:
            if re.search(rf"\b{color} (?!background)", text):
                assert color in {one.color for one in scene.objects}, text


def test_no_caption_for_an_empty_scene():
    with pytest.raises(ValueError, match="without objects"):
        caption(Scene("white", "flat"), np.random.default_rng(0))
