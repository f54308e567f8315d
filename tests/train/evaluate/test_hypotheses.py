"""Drawing what might be there: block means, windows, shifts."""

from dataclasses import replace

import numpy as np
import pytest

from train.data.scenes import VOCABULARY, Scene, Sticker, draw
from train.evaluate.hypotheses import (
    Window,
    background_errors,
    every_look,
    pooled,
    shifted,
    size_fits,
    word_fits,
)

CAR = Sticker("car", "blue", "medium", 120, 100)
SCENE = Scene("meadow", "outlined", None, (Sticker("tree", None, "small", 213, 43),))


def picture_with(one, shade=None):
    return draw(replace(SCENE, filter=shade, objects=(*SCENE.objects, one)))


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_pooled_is_the_mean_of_blocks(factor):
    picture = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    blocks = picture.reshape(16 // factor, factor, 24 // factor, factor, 3).mean((1, 3))
    np.testing.assert_allclose(pooled(picture, factor), blocks, atol=1e-4)


def test_shifts_stay_on_the_canvas():
    assert (shifted(CAR, 300, -300).cx, shifted(CAR, 300, -300).cy) == (256 - 41, 41)


@pytest.mark.parametrize("shade", [None, "sepia", "pixel", "sketch"])
def test_the_truth_has_no_error(shade):
    scene = replace(SCENE, filter=shade)
    window = Window.around(picture_with(CAR, shade), scene, CAR)
    truth, other, empty = window.errors([CAR, replace(CAR, noun="bus"), None])
    # A sketch's blur reaches beyond the window.
    assert truth <= (0 if shade != "sketch" else 0.001 * empty)
    assert other > 0.05 * empty and empty > 0
    assert window.explained(CAR) > 0.99 and window.explained(replace(CAR, noun="bus")) < 0.95


def test_fit_finds_the_shift():
    window = Window.around(picture_with(shifted(CAR, 5, -3)), SCENE, CAR)
    rough, _ = window.fit(CAR, 8, 4)
    best, error = window.fit(rough, 3, 1)
    assert (best.cx, best.cy, error) == (125, 97, 0)


def test_sizes_and_words_are_told_apart():
    sign = Sticker("sign", "red", "small", 50, 200, "TAXI")
    picture = picture_with(sign)
    sizes = size_fits(Window.around(picture, SCENE, sign, any_size=True), sign)
    assert min(sizes, key=lambda size: sizes[size][1]) == "small"
    words = word_fits(Window.around(picture, SCENE, sign), [replace(sign, text="HI")])
    assert len(words) == 24 and min(words, key=lambda word: words[word][1]) == "TAXI"


def test_every_look_is_every_noun_in_every_coloring():
    looks = every_look(CAR)
    assert len(looks) == len(set(looks)) == 114 * 9 + 16
    assert {one.noun for one in looks} == set(VOCABULARY.nouns)
    assert all((one.text is None) == (one.noun != "sign") for one in looks)


def test_background_errors_ignore_what_is_not_free():
    picture = draw(Scene("desert", "flat"))
    free = np.ones((256, 256), bool)
    free[:, :128] = False
    picture[:, :128] = 0
    errors, drawn = background_errors(picture, free=free)
    assert errors["desert"] == 0 and min(value for name, value in errors.items() if name != "desert") > 1000
    assert set(drawn) == set(VOCABULARY.backgrounds)
