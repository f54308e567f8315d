"""Scenes as data: JSON, legality, places, relations."""

from dataclasses import replace

import pytest

from train.data.scenes import Scene, Sticker
from train.data.scenes.scene import at_place, beside, legal, problems, region, relation

CAT = Sticker("cat", None, "small", 60, 60)
SIGN = Sticker("sign", "red", "medium", 150, 60, "OPEN")
SCENE = Scene("meadow", "flat", None, (CAT, SIGN))


def test_json_round_trip():
    data = SCENE.to_json()
    assert "text" not in data["objects"][0] and data["objects"][1]["text"] == "OPEN"
    assert Scene.from_json(data) == SCENE


def with_cat(**changes):
    return replace(SCENE, objects=(replace(CAT, **changes), SIGN))


@pytest.mark.parametrize(
    ("scene", "said"),
    [
        (replace(SCENE, background="mars"), "unknown background 'mars'"),
        (replace(SCENE, style="oil"), "unknown style 'oil'"),
        (replace(SCENE, filter="blur"), "unknown filter 'blur'"),
        (with_cat(noun="unicorn"), "unknown noun 'unicorn'"),
        (with_cat(size="huge"), "unknown size 'huge'"),
        (with_cat(color="teal"), "unknown color 'teal'"),
        (with_cat(noun="panda", color="red"), "the panda has one colouring only"),
        (with_cat(cx=32), r"outside 33\.\.223"),
        (with_cat(cy=224), r"outside 33\.\.223"),
        (with_cat(cx=60.5), "whole pixels"),
        (with_cat(text="OPEN"), "only a sign has text"),
        (with_cat(noun="sign"), "a sign needs one of the words"),
        (with_cat(cx=76), "too near"),
        (replace(SCENE, objects=(CAT,) * 6), "6 objects; at most 5"),
        (
            replace(SCENE, objects=(replace(CAT, noun="bear"), replace(SIGN, noun="teddy bear", text=None))),
            "never stand",
        ),
        (replace(SCENE, objects=(SIGN, SIGN.at(150, 200))), "more than one sign"),
    ],
)
def test_illegal_scenes_are_named(scene, said):
    assert not legal(scene)
    with pytest.raises(ValueError, match=said):
        Scene.from_json(scene.to_json())


def test_gap_is_three_pixels():
    """Boxes of 62 and 82 pixels: centres 75 apart are legal, 74 are not."""
    assert legal(with_cat(cx=75)) and not legal(with_cat(cx=76))


def test_unknown_keys_are_errors():
    with pytest.raises(ValueError, match="unknown keys.*colour"):
        Scene.from_json(SCENE.to_json() | {"colour": 1})
    with pytest.raises(ValueError, match="not a scene"):
        Scene.from_json({"background": "meadow", "style": "flat", "objects": [{"noun": "cat", "kind": 1}]})


def test_large_objects_are_clamped_at_places():
    large = replace(CAT, size="large")
    assert [(at_place(large, i, i).cx, at_place(large, i, i).cy) for i in range(3)] == [
        (59, 59),
        (128, 128),
        (197, 197),
    ]
    assert at_place(CAT, 0, 2).cx == 213 and at_place(CAT, 0, 2).cy == 43


def test_regions_go_by_the_centre():
    assert region(CAT.at(85, 171)) == (2, 0)
    assert region(CAT.at(86, 170)) == (1, 1)


def test_relations_need_a_clear_direction():
    assert relation(CAT.at(60, 60), CAT.at(150, 120)) == "left"
    assert relation(CAT.at(150, 60), CAT.at(60, 121)) is None
    assert relation(CAT.at(60, 200), CAT.at(60, 60)) == "below"
    assert relation(CAT, CAT) is None


def test_beside_keeps_eight_pixels_and_clamps_the_other_axis():
    low_sign = SIGN.at(150, 60)
    large = replace(CAT, size="large")
    placed = beside(large, replace(low_sign, cy=43), "left")
    assert (placed.cx, placed.cy) == (150 - (114 + 82) // 2 - 8, 59)
    assert beside(CAT, SIGN, "above").cy == 60 - 72 - 8  # leaves the canvas
    assert any(
        "outside" in said for said in problems(replace(SCENE, objects=(beside(CAT, SIGN, "above"), SIGN)))
    )
