"""The checkpoint that comes with the repository opens, edits and reconstructs."""

import numpy as np
import pytest
import torch
from PIL import Image

from rpiae import RPiAEPipeline, images
from rpiae.metrics import psnr
from rpiae.tokenizers.rpiae import BUNDLED
from tests.conftest import SCENES


@pytest.fixture(scope="module")
def bundled():
    pipe = RPiAEPipeline.from_pretrained(BUNDLED)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_an_edit_changes_a_part_and_leaves_the_rest(bundled):
    scene = Image.open(SCENES / "scene_3.png").convert("RGB")
    out = bundled("remove the backpack", image=scene, generator=torch.Generator().manual_seed(7))
    (result,), (mask,) = out.images, out.change_masks
    changed, before, after = np.asarray(mask) > 0, np.asarray(scene), np.asarray(result)
    assert 0.02 < changed.mean() < 0.6
    assert np.array_equal(after[~changed], before[~changed])


def test_sample_scenes_come_back(bundled):
    pictures = [Image.open(SCENES / f"scene_{number}.png").convert("RGB") for number in range(6)]
    again = [bundled.reconstruct(picture) for picture in pictures]
    assert psnr(images.to_tensor(pictures), images.to_tensor(again)).mean() > 24.5  # 25.1, of busier scenes than most
