"""The drawings: golden pictures of the specification, blending, borders, filters, label maps."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.data.scenes import VOCABULARY, Scene, Sticker, draw, label_map, sample_scene, sprite
from train.data.scenes.art import bordered, recoloured, shade
from train.data.scenes.backgrounds import background
from train.data.scenes.filters import apply_filter

FIXTURES = Path(__file__).parents[3] / "fixtures" / "scenes"
SEPIA = ((0.393, 0.769, 0.189), (0.349, 0.686, 0.168), (0.272, 0.534, 0.131))
GOLDEN = sorted(FIXTURES.glob("*.json"))


def test_there_are_twelve_golden_pictures():
    assert len(GOLDEN) == 12


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_draws_the_golden_picture(path):
    data = json.loads(path.read_text())
    scene = Scene.from_json(data.get("target") or data["scene"])
    expected = np.asarray(Image.open(path.with_suffix(".png")).convert("RGB"))
    difference = np.abs(draw(scene).astype(int) - expected)
    # Exact where this was written; another build of the rasteriser may differ at antialiased edges.
    assert difference.mean() < 0.1
    assert (difference > 2).mean() < 0.002


def test_blending_is_pils_paste():
    scene = sample_scene(np.random.default_rng(5), count=4)
    expected = Image.fromarray(background(scene.background))
    for one in scene.objects:
        art = Image.fromarray(sprite(one, scene.style), "RGBA")
        expected.paste(art.convert("RGB"), one.corner, art.getchannel("A"))
    np.testing.assert_array_equal(draw(scene), np.asarray(expected))


def test_drawing_returns_a_fresh_picture():
    scene = sample_scene(np.random.default_rng(1))
    first = draw(scene)
    first[:] = 0
    assert draw(scene).any()


def test_a_color_changes_only_tinted_parts():
    """Recolouring keeps outlines: the coloured and the plain car share shape and black lines."""
    plain = sprite(Sticker("car", None, "large", 128, 128), "outlined").astype(int)
    blue = sprite(Sticker("car", "blue", "large", 128, 128), "outlined").astype(int)
    np.testing.assert_array_equal(plain[..., 3], blue[..., 3])
    changed = np.abs(plain - blue).sum(-1) > 60
    assert 0.05 < changed.mean() < 0.6
    black = (plain[..., :3].max(-1) < 20) & (plain[..., 3] == 255)
    assert black.sum() > 100 and not changed[black].any()


def test_recolouring_knows_short_literals_and_leaves_others():
    text = '<path fill="#F00"/><path fill="#ff0000"/><path fill="#00f"/><path fill="#ff00001"/>'
    assert recoloured(text, {"#ff0000": 0.0}, (1, 2, 3)) == (
        '<path fill="#010203"/><path fill="#010203"/><path fill="#00f"/><path fill="#ff00001"/>'
    )
    assert shade(100, -0.25) == 75 and shade(100, 0.5) == 178 and shade(100, 0.0) == 100


def test_border_is_white_and_fades_out_at_three_and_a_half_pixels():
    art = np.zeros((20, 20, 4), np.uint8)
    art[8:12, 8:12] = (200, 0, 0, 255)
    out = bordered(art)
    assert out.shape == (26, 26, 4)
    np.testing.assert_array_equal(out[13, 13], (200, 0, 0, 255))
    np.testing.assert_array_equal(out[13, 9], (255, 255, 255, 255))  # 2 pixels from the drawing at column 11
    np.testing.assert_array_equal(out[13, 8], (255, 255, 255, 128))  # 3 pixels: half
    np.testing.assert_array_equal(out[13, 7, 3], 0)  # 4 pixels: nothing
    assert out[9, 8, 3] == 0 and 0 < out[9, 9, 3] < 255  # the corner is round


@pytest.mark.parametrize("style", VOCABULARY.styles)
@pytest.mark.parametrize("size", VOCABULARY.sizes)
def test_signs_show_their_word(style, size):
    words = {word: sprite(Sticker("sign", None, size, 128, 128, word), style) for word in ("HI", "STOP")}
    assert words["HI"].shape == words["STOP"].shape
    assert (words["HI"] != words["STOP"]).any()
    yellow = sprite(Sticker("sign", "yellow", size, 128, 128, "HI"), style)
    n = yellow.shape[0]
    middle = yellow[n // 2 - 12 : n // 2 + 12, n // 2 - 20 : n // 2 + 20, :3].reshape(-1, 3)
    colors = {tuple(color) for color in middle.tolist()}
    assert colors == {VOCABULARY.colors["yellow"], (0, 0, 0)}


def test_filters_compute_what_they_say():
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    r, g, b = (picture[..., i].astype(float) for i in range(3))
    luma = 0.299 * r + 0.587 * g + 0.114 * b

    def close(name, *channels):
        expected = np.clip(np.stack(channels, -1), 0, 255)
        assert np.abs(apply_filter(picture, name) - expected).max() <= 0.501

    close("bw", luma, luma, luma)
    close(
        "sepia",
        *(a * r + c * g + d * b for a, c, d in SEPIA),
    )
    close("negative", 255 - r, 255 - g, 255 - b)
    close("warm", 1.1 * r + 14, g + 2, 0.7 * b)
    close("cool", 0.7 * r, 0.97 * g, 1.06 * b + 22)
    close("night", 0.28 * r + 6, 0.34 * g + 12, 0.52 * b + 40)
    close("faded", *(0.45 * v + 0.55 * 222 for v in (r, g, b)))
    pixel = apply_filter(picture, "pixel")
    assert np.abs(pixel[0, 0] - picture[:4, :4].mean((0, 1))).max() <= 0.501
    np.testing.assert_array_equal(pixel[4:, 4:], np.broadcast_to(pixel[7, 7], (4, 4, 3)))


def test_sketch_leaves_lines_on_white():
    scene = Scene("light blue", "outlined", "sketch", (Sticker("house", None, "large", 128, 128),))
    picture = draw(scene)
    np.testing.assert_array_equal(picture[..., 0], picture[..., 2])
    assert picture[:40].min() >= 250  # an even area is paper
    assert picture[80:180, 80:180].min() < 120


def test_unknown_names_are_refused_with_the_known_ones():
    picture = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="unknown filter 'blur'.*sepia"):
        apply_filter(picture, "blur")
    with pytest.raises(ValueError, match="unknown background 'moon'.*meadow"):
        background("moon")


def test_label_map_says_which_object_is_where():
    scene = sample_scene(np.random.default_rng(3), count=3)
    labels = label_map(scene)
    assert set(np.unique(labels)) == {-1, 0, 1, 2}
    for index, one in enumerate(scene.objects):
        ys, xs = np.nonzero(labels == index)
        assert np.abs(xs - one.cx).max() <= one.side // 2 and np.abs(ys - one.cy).max() <= one.side // 2
        without = replace(scene, objects=scene.objects[:index] + scene.objects[index + 1 :])
        changed = (draw(scene) != draw(without)).any(-1)
        assert not (changed & (labels != index) & (labels >= 0)).any()
