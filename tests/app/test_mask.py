"""Where an edit may change a picture: painted, in percent or from a file, always at the picture's own size."""

import io

import numpy as np
import pytest
from PIL import Image

from app import mask
from app.request import EditRequest


def painted_on(size: tuple[int, int], *layers: bytes) -> Image.Image | None:
    return mask.from_layers(map(io.BytesIO, layers), size)


def layer(size: tuple[int, int], box: tuple[int, int, int, int] | None) -> bytes:
    """A brush layer as the editor sends it: colour where painted, nothing elsewhere."""
    image = Image.new("RGBA", size, (0, 0, 0, 0))
    if box:
        image.paste((255, 0, 255, 153), box)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_a_large_picture_is_painted_on_through_a_small_copy():
    assert mask.shrunk(Image.new("RGB", (4000, 3000))).size == (768, 576)
    assert mask.shrunk(Image.new("RGB", (200, 100))).size == (200, 100)


def test_what_is_painted_is_scaled_to_the_picture():
    painted = painted_on((4000, 3000), layer((768, 576), (0, 0, 384, 576)))
    pixels = np.asarray(painted)
    assert painted.mode == "L" and painted.size == (4000, 3000)
    assert set(np.unique(pixels)) == {0, 255}
    assert (pixels[:, :1990] == 255).all() and (pixels[:, 2010:] == 0).all()


def test_several_layers_are_one_mask_and_nothing_painted_is_none():
    both = painted_on((20, 20), layer((20, 20), (0, 0, 5, 20)), layer((20, 20), (15, 0, 20, 20)))
    assert np.asarray(both).mean() == 255 / 2
    assert painted_on((20, 20)) is None
    assert painted_on((20, 20), layer((20, 20), None)) is None


@pytest.mark.parametrize("broken", [b"", b"no picture", layer((20, 20), None)[:40], layer((3000, 2000), None)])
def test_a_broken_layer_is_a_sentence(broken):
    with pytest.raises(ValueError, match="did not arrive whole"):
        painted_on((20, 20), broken)


def test_a_rectangle_in_percent():
    found = np.asarray(mask.from_rectangle((25, 50, 50, 80), (200, 100)))
    assert (found[50:, 50:150] == 255).all() and found.sum() == 255 * 100 * 50
    for numbers, words in (
        ((0, 0, 0, 50), "no part of the picture"),
        ((100, 0, 50, 50), "no part of the picture"),
        ((-1, 0, 50, 50), "Left .* is -1"),
        ((0, None, 50, 50), "Top .* is empty"),
        ((0, 0, float("nan"), 50), "Width .* must be a number"),
    ):
        with pytest.raises(ValueError, match=words):
            mask.from_rectangle(numbers, (200, 100))


def test_a_mask_file_is_scaled_and_must_have_the_pictures_shape(tmp_path):
    white = Image.new("L", (50, 25), 0)
    white.paste(255, (0, 0, 25, 25))
    white.save(tmp_path / "mask.png")
    found = np.asarray(mask.from_file(str(tmp_path / "mask.png"), (200, 100)))
    assert (found[:, :98] == 255).all() and (found[:, 102:] == 0).all()
    with pytest.raises(ValueError, match="has not the picture's shape"):
        mask.from_file(str(tmp_path / "mask.png"), (100, 100))
    with pytest.raises(ValueError, match="no mask file"):
        mask.from_file(None, (100, 100))
    with pytest.raises(ValueError, match="no longer on this server"):
        mask.from_file(str(tmp_path / "deleted.png"), (100, 100))
    Image.new("L", (50, 25), 0).save(tmp_path / "black.png")
    with pytest.raises(ValueError, match="Nothing is painted white"):
        mask.from_file(str(tmp_path / "black.png"), (200, 100))


def test_a_painted_edit_leaves_every_pixel_outside_as_it_was(service, picture):
    source = picture.resize((333, 210))
    painted = painted_on(source.size, layer((256, 161), (0, 0, 128, 161)))
    request = EditRequest(source, "make it blue", seed=5, mask=painted, preserve_unchanged=False)
    [result] = service.run(request).pictures
    outside = np.asarray(painted) == 0
    before, after = np.asarray(source), np.asarray(result.image)
    assert 0.4 < outside.mean() < 0.6
    assert (before[outside] == after[outside]).all()
    assert (before[~outside] != after[~outside]).any(axis=-1).mean() > 0.5
    assert result.recipe.mask_sha256
