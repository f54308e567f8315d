"""Where the text encoder's weights are looked for: a package, what the hub's tool fetched, a folder; never the hub."""

import shutil

import pytest
import torch

from rpiae.text import TextEncoder, find_weights

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The hub's folder on this machine, with one model as `hf download some/model` leaves it."""
    home = tmp_path / "models--some--model"
    snapshot = home / "snapshots" / ("a" * 40)
    shutil.copytree(find_weights(MINILM), snapshot)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(snapshot.name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return snapshot


def test_a_fetched_model_is_found_and_read_again_by_its_name(cache, tmp_path, monkeypatch):
    assert find_weights("hf:some/model") == cache
    TextEncoder("hf:some/model", layers=[6]).save_pretrained(tmp_path / "saved")
    monkeypatch.chdir(tmp_path)  # wherever a program is started
    again = TextEncoder.from_pretrained(tmp_path / "saved")
    assert again.config.model == "hf:some/model" and again(["a cat"]).states.shape == (1, 64, 384)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("hf:some/other", "the text encoder some/other is not on this machine; run: hf download some/other"),
        ("hf:no name", "'no name' is no name of a model on the hub"),
        ("nowhere", "'nowhere' is neither a local folder nor hf:org/name nor one of: sentence-transformers"),
    ],
)
def test_what_is_not_there_is_told_with_what_to_do(cache, model, said):
    with pytest.raises(ValueError, match=said):
        find_weights(model)


def test_a_text_is_read_once_and_an_empty_one_not_at_all(monkeypatch):
    encoder, read = TextEncoder("sentence-transformers/all-MiniLM-L6-v2", layers=[0, 6]), []
    states = encoder._hidden_states
    monkeypatch.setattr(encoder, "_hidden_states", lambda texts: read.append(texts) or states(texts))
    found = encoder(["a cat", "", "a dog", "a cat", "  "])
    assert read == [["a cat", "a dog"]]
    assert found.mask.any(1).tolist() == [True, False, True, True, False]
    for row, text in enumerate(("a cat", "", "a dog", "a cat")):
        alone = encoder([text])
        assert torch.equal(found.mask[row], alone.mask[0])
        seen = alone.mask[0]
        torch.testing.assert_close(found.states[row, seen], alone.states[0, seen], atol=1e-5, rtol=1e-4)
