"""Requests: cleaned and checked on creation, one sentence for each mistake, JSON and back."""

import json

import pytest
from PIL import Image

from app.request import (
    SEED_MAX,
    CompareRequest,
    EditRequest,
    GenerateRequest,
    ReconstructRequest,
    from_json,
)

PICTURE = Image.new("RGB", (40, 30), "red")


def test_words_are_cleaned_and_a_seed_is_chosen_when_none_is_given():
    first, second = GenerateRequest("  a cat \n and  a dog "), GenerateRequest("a cat")
    assert first.prompt == "a cat and a dog"
    assert 0 <= first.seed <= SEED_MAX
    assert first.seed != second.seed  # one in two thousand million


def test_every_picture_has_its_own_seed_and_they_wrap_round():
    assert GenerateRequest("a cat", seed=7, count=3).seeds == [7, 8, 9]
    assert EditRequest(PICTURE, "more red", seed=SEED_MAX, count=2).seeds == [SEED_MAX, 0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prompt": ""}, "Describe the picture"),
        ({"prompt": "  \n "}, "Describe the picture"),
        ({"prompt": None}, "Describe the picture"),
        ({"prompt": 7}, "must be words, not int"),
        ({"prompt": "x" * 2001}, "2001 characters"),
        ({"seed": -1}, "Seed is -1"),
        ({"seed": 2**31}, "Seed is 2147483648"),
        ({"seed": 1.5}, "whole number, not 1.5"),
        ({"seed": None}, "Seed is empty"),
        ({"seed": True}, "Seed must be a number"),
        ({"num_inference_steps": 0}, "Steps is 0"),
        ({"num_inference_steps": 10**6}, "Steps is 1000000"),
        ({"num_inference_steps": "many"}, "Steps must be a number"),
        ({"guidance_scale": float("nan")}, "must be a number, not nan"),
        ({"guidance_scale": float("inf")}, "must be a number, not inf"),
        ({"guidance_scale": -0.1}, "is -0.1"),
        ({"count": 5}, "Pictures is 5"),
    ],
)
def test_each_mistake_has_its_sentence(settings, words):
    with pytest.raises(ValueError, match=words):
        GenerateRequest(**{"prompt": "a cat"} | settings)


def test_an_edit_needs_a_picture_and_words():
    with pytest.raises(ValueError, match="no picture yet"):
        EditRequest(None, "make it blue")
    with pytest.raises(ValueError, match="Say what should change"):
        EditRequest(PICTURE, " ")
    with pytest.raises(ValueError, match="Stay close to the picture is 99"):
        EditRequest(PICTURE, "make it blue", image_guidance_scale=99)


def test_a_mask_has_the_pictures_size_and_a_parent_is_a_jobs_id():
    assert EditRequest(PICTURE, "make it blue", mask=Image.new("L", (40, 30))).to_json()["parent"] == ""
    with pytest.raises(ValueError, match="40 × 31 pixels, the picture 40 × 30"):
        EditRequest(PICTURE, "make it blue", mask=Image.new("L", (40, 31)))
    for wrong in ({"parent": 7}, {"parent": "x" * 99}):
        with pytest.raises(ValueError, match="not a request"):
            EditRequest(PICTURE, "make it blue", **wrong)
    with pytest.raises(ValueError, match="is 4"):
        EditRequest(PICTURE, "make it blue", parent_picture=4)


def test_a_comparison_needs_tokenizers_and_takes_each_once():
    assert CompareRequest(PICTURE, ["rpiae", "sd-vae", "rpiae"]).tokenizers == ("rpiae", "sd-vae")
    with pytest.raises(ValueError, match="at least one tokenizer"):
        CompareRequest(PICTURE, ())
    with pytest.raises(ValueError, match="list of names"):
        CompareRequest(PICTURE, "rpiae")


@pytest.mark.parametrize(
    "request_",
    [
        GenerateRequest("a cat", seed=3, guidance_scale=2.5, count=2),
        EditRequest(PICTURE, "make it blue", seed=4, preserve_unchanged=False, parent="8d1f0e4c", parent_picture=1),
        EditRequest(PICTURE, "make it blue", seed=4, mask=Image.new("L", PICTURE.size, 255)),
        CompareRequest(PICTURE, ("rpiae",)),
        ReconstructRequest(PICTURE),
    ],
    ids=lambda request: request.kind,
)
def test_json_and_back_is_the_same_request(request_):
    text = json.dumps(request_.to_json())
    assert from_json(json.loads(text), getattr(request_, "source", None), getattr(request_, "mask", None)) == request_


@pytest.mark.parametrize("plain", [{}, {"kind": "delete"}, {"kind": "generate", "prompt": "a cat", "path": "/etc"}])
def test_what_is_no_request_is_refused(plain):
    with pytest.raises(ValueError, match="not a request"):
        from_json(plain)
