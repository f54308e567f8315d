"""Example pictures: what changes decides which edits are shown, however much of the picture stays."""

import numpy as np
import pytest

from train.evaluate.examples import psnr_of_change


def test_what_stays_does_not_hide_what_changed():
    source = np.zeros((64, 64, 3), np.uint8)
    target, result = source.copy(), source.copy()
    target[:8, :8] = 255
    result[:8, :4] = 255  # half of it done
    assert psnr_of_change(source, result, target) == pytest.approx(10 * np.log10(2))
    result[32:, 32:] = 51  # and something else spoiled: a fifth of the range in sixteen times the area
    spoiled = (32 * 1.0 + 1024 * 0.04) / (64 + 1024)
    assert psnr_of_change(source, result, target) == pytest.approx(-10 * np.log10(spoiled), rel=1e-4)
