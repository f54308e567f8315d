"""Probes read what is there and nothing that is not."""

import torch

from train.data.pictures import PATCH
from train.evaluate import probe as module
from train.evaluate.probe import probe


def test_what_a_patch_shows_is_read_and_nothing_is_read_from_nothing(monkeypatch):
    monkeypatch.setattr(module, "FIT_PICTURES", 96)
    monkeypatch.setattr(module, "HELD_OUT_PICTURES", 48)

    def mean_colour(x):
        return torch.nn.functional.avg_pool2d(x, PATCH)

    def pixels(x):
        return torch.nn.functional.pixel_unshuffle(x, PATCH)[:, ::8]

    blind = probe(lambda x: torch.zeros(len(x), 3, 16, 16))
    colour, full = probe(mean_colour), probe(pixels)
    assert colour["colors"] > blind["colors"] + 0.03  # a patch's mean colour says something of a sticker's colour
    assert full["colors"] > blind["colors"] and colour["nouns"] > blind["nouns"]
    assert all(0 <= value <= 1 for row in (blind, colour, full) for value in row.values())
