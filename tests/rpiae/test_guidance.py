"""The guidance formula, and which branches are worth computing."""

import pytest
import torch

from rpiae.guidance import branches, combine


def value(branch):
    """A made-up velocity for each branch, so that a formula can be checked by hand."""
    return {("prompt", True): 7.0, ("none", True): 3.0, ("negative", True): 5.0, ("none", False): 2.0,
            ("prompt", False): 11.0, ("negative", False): 13.0}[branch.text, branch.source]  # fmt: skip


def guided(*arguments, **keywords):
    chosen = branches(*arguments, **keywords)
    stacked = torch.tensor([[value(b)] for b in chosen])
    return combine(stacked, tuple(b.factor for b in chosen)).item(), chosen


@pytest.mark.parametrize(("text_scale", "image_scale"), [(3.0, 1.5), (1.0, 2.0), (4.0, 1.0), (2.0, 2.0), (1.0, 1.0)])
def test_editing_is_the_three_branch_formula(text_scale, image_scale):
    result, chosen = guided(text_scale, image_scale, editing=True)
    v00, v0i, vci = 2.0, 3.0, 7.0
    assert result == pytest.approx(v00 + image_scale * (v0i - v00) + text_scale * (vci - v0i))
    assert sum(b.factor for b in chosen) == pytest.approx(1.0)


def test_text_to_image_is_the_two_branch_formula():
    assert guided(3.0, 9.9, editing=False)[0] == pytest.approx(2.0 + 3.0 * (11.0 - 2.0))


def test_scales_of_one_skip_the_branch_that_drops_out():
    assert len(branches(1.0, 1.0, editing=True)) == 1
    assert len(branches(1.0, 1.0, editing=False)) == 1
    assert [b.source for b in branches(3.0, 1.0, editing=True)] == [True, True]
    assert len(branches(2.0, 2.0, editing=True)) == 2  # "no text" beside the source cancels


def test_a_negative_prompt_takes_the_place_of_no_text():
    result, _ = guided(3.0, 1.5, editing=True, negative=True)
    assert result == pytest.approx(2.0 + 1.5 * (5.0 - 2.0) + 3.0 * (7.0 - 5.0))
    result, _ = guided(3.0, 1.5, editing=False, negative=True)
    assert result == pytest.approx(13.0 + 3.0 * (11.0 - 13.0))


def test_combine_reads_its_batch_branch_by_branch():
    velocities = torch.tensor([[1.0], [2.0], [10.0], [20.0]])
    assert combine(velocities, (2.0, -1.0)).tolist() == [[-8.0], [-16.0]]
