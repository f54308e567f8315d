"""FAE: the paper's sizes, its bottleneck written out, and folders."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from rpiae.tokenizers import Tokenizer, available, fae, load, published

COMPACT = {
    "encoder_config": {"kind": "vit", "hidden_size": 32, "num_layers": 1, "num_heads": 2},
    "latent_channels": 4,
    "bottleneck_config": {"num_heads": 2, "head_width": 24},
    "feature_decoder_config": {"num_layers": 2, "num_heads": 2, "hidden_size": 40},
    "decoder_config": {"width": 32, "num_layers": 1, "num_heads": 2, "hidden_size": 48, "patch_size": 16},
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return fae.AutoencoderFAE(**COMPACT, image_size=64).eval()


def picture():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_paper_sizes():
    model = published.empty(fae.build)
    counts = [
        sum(p.numel() for p in part.parameters()) for part in (model.bottleneck, model.feature_decoder, model.decoder)
    ]
    assert [f"{count / 1e6:.2f}" for count in counts] == ["38.17", "170.43", "305.36"]
    assert model.latent_shape == (32, 16, 16) == fae.PUBLISHED.latent_shape
    assert model.bottleneck.moments.weight.shape == (64, 24 * 256)
    assert model.feature_decoder.position_table.shape == (1, 256, 1536)
    assert model.decoder.head.weight.shape == (16 * 16 * 3, 1024)


def test_bottleneck_is_the_papers(model):
    """Attention of heads wider than the features' share, plus a linear skip, activation, one projection."""
    tokens = torch.randn(2, 16, 32)
    q, k, v, skip = F.linear(tokens, model.bottleneck.qkv_and_skip.weight, model.bottleneck.qkv_and_skip.bias).chunk(
        4, -1
    )
    heads = []
    for head in range(2):
        q1, k1, v1 = (one[..., 24 * head : 24 * head + 24] for one in (q, k, v))
        heads.append(torch.softmax(q1 @ k1.mT / 24**0.5, -1) @ v1)
    expected = model.bottleneck.moments(F.gelu(skip + torch.cat(heads, -1)))
    torch.testing.assert_close(model.bottleneck(tokens), expected)


@torch.no_grad()
def test_a_trained_folder_comes_back(model, tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    model.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    tokenizer = load("fae-d32", folder)
    x = picture()
    z = tokenizer.encode(x)
    assert isinstance(tokenizer, Tokenizer) and z.shape == (2, 4, 4, 4)
    assert torch.equal(z, model.encode(x).latent_dist.mode())
    assert torch.equal(tokenizer.decode(z), model(x).clamp(0, 1))
    features = model.encode_features(x)
    assert model.widen(z).shape == features.shape and model.narrow(features).kl() > 0
    info = tokenizer.info
    assert (info.latent_shape, info.downsampling, info.image_size) == ((4, 4, 4), 16, 64)
    assert (info.source, info.licence) == ("mine", "apache-2.0")
    assert (
        not any(one.requires_grad for one in model.encoder.parameters())
        and model.bottleneck.moments.weight.requires_grad
    )

    monkeypatch.setattr(published, "ASSETS", tmp_path)
    with pytest.raises(ValueError, match='fae-d32 are not on this machine.* or "random"'):
        load("fae-d32")
    folder.rename(tmp_path / "fae-d32")
    assert "fae-d32" in available() and torch.equal(load("fae-d32").encode(x), z)


def test_a_folder_that_does_not_fit_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights.pop("bottleneck.moments.bias")
    save_file(weights | {"extra": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="1 missing: bottleneck.moments.bias; 1 unexpected: extra"):
        load("fae-d32", tmp_path)
    with pytest.raises(ValueError, match="no checkpoint folder"):
        load("fae-d32", path)
