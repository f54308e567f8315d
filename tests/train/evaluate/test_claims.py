"""What a text says against what is seen: only what is said counts, and it must be said of the same sticker."""

from dataclasses import replace

import numpy as np
import pytest

from train.data.scenes import Scene, Sticker, draw, sample_scene
from train.evaluate.accuracy import degraded, false_claims
from train.evaluate.claims import Claims, Wanted, claims_of, compare, holds, in_region, judge_claims
from train.evaluate.finder import sight_of

CAT, CAR = Sticker("cat", None, "small", 60, 60), Sticker("car", "blue", "medium", 180, 70)
SCENE = Scene("meadow", "flat", None, (CAT, CAR))
SIGHT = sight_of(SCENE)


def said(*wanted, **more):
    return compare(SIGHT, Claims(wanted, **more))


def test_only_what_is_said_counts():
    assert said(Wanted("cat")).ok and said(Wanted("car")).ok and said(Wanted("cat"), Wanted("car")).ok
    assert said(Wanted("cat"), only=True).failed == ["nothing else"]


@pytest.mark.parametrize(
    ("claims", "failed"),
    [
        (Claims((Wanted("dog"),)), "count of dog"),
        (Claims((Wanted("cat", 2),)), "count of cat"),
        (Claims((Wanted("car", color="red"),)), "color 0"),
        (Claims((Wanted("cat", color="blue"),)), "color 0"),
        (Claims((Wanted("car", size="large"),)), "size 0"),
        (Claims((Wanted("cat", place=(2, 2)),)), "place 0"),
        (Claims((Wanted("cat"), Wanted("car")), relation="right"), "relation"),
        (Claims((Wanted("cat"),), background="sea"), "background"),
        (Claims((Wanted("cat"),), style="outlined"), "style"),
    ],
)
def test_what_is_said_must_hold(claims, failed):
    verdict = compare(SIGHT, claims)
    assert failed in verdict.failed and "small cat" in verdict.notes["seen"]


def test_true_claims_hold():
    assert compare(
        SIGHT,
        Claims((Wanted("cat", place=(0, 0)), Wanted("car", color="blue", size="medium")), "left", "meadow", "flat"),
    ).ok


def test_attributes_must_be_on_the_same_sticker():
    """A small blue car is not seen where one car is small and another blue."""
    cars = (replace(CAR, color="red", size="small"), replace(CAR, cy=200))
    sight = sight_of(replace(SCENE, objects=cars))
    verdict = compare(sight, Claims((Wanted("car", 2, color="blue"),)))
    assert "color 0" in verdict.failed
    mixed = compare(sight, Claims((Wanted("car", 1, color="blue", size="small"), Wanted("car", 1))))
    assert mixed.failed == ["object 0"]


def test_own_colors_count_as_their_name():
    horse = replace(SCENE, objects=(Sticker("horse", None, "small", 60, 60),))
    assert compare(sight_of(horse), Claims((Wanted("horse", color="brown"),))).ok


def test_regions_and_relations_have_a_little_slack():
    assert in_region(CAT.at(88, 60), 0, 0) and in_region(CAT.at(88, 60), 0, 1) and not in_region(CAT.at(95, 60), 0, 0)
    assert holds(CAT.at(60, 100), "left", CAT.at(140, 160)) and not holds(CAT.at(60, 100), "left", CAT.at(140, 190))
    assert holds(CAT.at(60, 200), "below", CAT.at(60, 60)) and not holds(CAT, "left", CAT)


def test_everything_said_of_a_scene_is_true_of_it():
    rng = np.random.default_rng(0)
    for _ in range(200):
        scene = sample_scene(rng, unseen=True)
        assert compare(sight_of(scene), claims_of(scene)).ok


def test_judge_accepts_true_and_rejects_false_pictures():
    rng = np.random.default_rng(51)
    accepted = 0
    for index in range(4):
        scene = sample_scene(rng, unseen=True)
        picture = degraded(draw(scene), rng) if index % 2 else draw(scene)
        accepted += judge_claims(picture, claims_of(scene)).ok
    assert accepted == 4
    for kind in ("noun", "color", "one missing", "relation", "text"):
        scene, wrong = false_claims(kind, rng)
        assert not judge_claims(draw(wrong), claims_of(scene)).ok, (kind, scene, wrong)
