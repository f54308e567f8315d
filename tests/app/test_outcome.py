"""Faults become sentences: no trace, no folder of this machine."""

import errno

import pytest
import torch

from app.outcome import sentence


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (ValueError("the picture is too small"), "the picture is too small"),
        (ValueError("/srv/data/a-b/model.safetensors is cut off"), "model.safetensors is cut off"),
        (ValueError("'/srv/x/vae' has 3 and/or 4 channels"), "'vae' has 3 and/or 4 channels"),
        (OSError(errno.ENOSPC, "No space left on device", "/srv/out"), "No space left on device"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("/srv/secret line 3"), "Something went wrong"),
        (OSError(errno.ENOENT, "No such file", "/srv/secret"), "Something went wrong"),
        (ValueError(), "Something went wrong"),
    ],
)
def test_a_fault_is_told_without_folders(fault, words):
    assert words in sentence(fault)
    assert "/srv" not in sentence(fault)


def test_torch_has_words_of_its_own_for_a_lack_of_memory():
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**50, dtype=torch.uint8)
    assert "not enough memory" in sentence(refused.value)
