"""A panel's verdicts are one judge's, in order, by the vocabulary of the moment."""

import os

import numpy as np
import pytest

from train.data.scenes import VOCABULARY, draw, sample_scene
from train.evaluate import panel
from train.evaluate.judge import Verdict, judge_scene


def scenes(count):
    rng = np.random.default_rng(5)
    return [sample_scene(rng) for _ in range(count)]


@pytest.fixture(params=[1, 3])
def cores(request, monkeypatch):
    monkeypatch.setattr(panel, "_cores", lambda: request.param)
    return request.param


def test_verdicts_are_those_of_one_judge_in_order(cores):
    shown = scenes(6)
    pictures = [draw(scene) for scene in shown]
    wanted = shown[:3] + shown[:3]  # the second half shows something else
    verdicts = panel.judge_all(judge_scene, pictures, wanted)
    assert verdicts == [judge_scene(*pair) for pair in zip(pictures, wanted, strict=True)]
    assert [verdict.ok for verdict in verdicts] == [True] * 3 + [False] * 3


def _witness(picture, wanted):
    return Verdict({"here": len(VOCABULARY.drawn_nouns) == wanted}, {"process": os.getpid()})


def test_all_judge_by_the_vocabulary_of_the_moment(cores):
    pictures = [np.zeros((1, 1, 3), np.uint8)] * 4
    with VOCABULARY.narrowed(drawn_nouns=("cat", "car")):
        verdicts = panel.judge_all(_witness, pictures, [2] * 4)
    assert all(verdict.ok for verdict in verdicts)
    assert (os.getpid() in {verdict.notes["process"] for verdict in verdicts}) == (cores == 1)


def test_a_picture_without_a_wish_is_an_error(cores):
    with pytest.raises(ValueError):
        panel.judge_all(judge_scene, [np.zeros((256, 256, 3), np.uint8)] * 2, scenes(1))
