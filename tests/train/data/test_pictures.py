"""Labels of patches say what is drawn there, also in a crop."""

import numpy as np

from train.data.pictures import COLORS, IGNORE, NOUNS, PATCH, SIZES, token_labels
from train.data.scenes import VOCABULARY, Scene, Sticker

SCENE = Scene("white", "flat", objects=(Sticker("cat", "red", "large", 128, 120),))
WHOLE = (slice(None), slice(None))


def test_labels_name_the_sticker_and_where_in_it_a_patch_lies():
    labels = token_labels(SCENE, WHOLE)
    here = labels["color"] != IGNORE
    assert 10 < here.sum() < 64
    assert set(labels["phrase"][here]) == {NOUNS.index("cat")}
    assert set(labels["color"][here]) == {1 + COLORS.index("red")}
    assert set(labels["size"][here]) == {SIZES.index("large")}
    row, column = 7, 8  # its middle is 8 px right of the sticker's centre, in the same height
    assert here[row, column]
    side = VOCABULARY.sizes["large"]
    np.testing.assert_allclose(labels["offset"][row, column], [8 / side, 0], atol=1e-6)
    assert not labels["offset"][~here].any() and (labels["size"][~here] == IGNORE).all()


def test_labels_of_a_crop_are_a_part_of_those_of_the_picture():
    part = (slice(4 * PATCH, 12 * PATCH), slice(5 * PATCH, 13 * PATCH))
    whole, crop = token_labels(SCENE, WHOLE), token_labels(SCENE, part)
    for name, values in crop.items():
        np.testing.assert_array_equal(values, whole[name][4:12, 5:13], err_msg=name)
