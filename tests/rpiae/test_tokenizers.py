"""Tokenizers behind one protocol: shapes, ranges, facts, and strict loading."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from rpiae import images
from rpiae.tokenizers import NAMES, Tokenizer, TokenizerInfo, available, load, published, rpiae, sd_vae
from rpiae.tokenizers.base import with_random_weights
from rpiae.tokenizers.comparison import Comparison, compare, sheet

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def ours(smoke_checkpoint):
    return load("rpiae", smoke_checkpoint)


@pytest.fixture
def small_sd_vae(monkeypatch):
    """SD-VAE's own blocks, narrow, so that files of it are small."""
    monkeypatch.setitem(sd_vae.ARCHITECTURE, "block_out_channels", [8, 8, 16, 16])
    monkeypatch.setitem(sd_vae.ARCHITECTURE, "norm_num_groups", 4)


@pytest.fixture
def sd_vae_folder(small_sd_vae, tmp_path):
    with_random_weights(sd_vae.build).save_pretrained(tmp_path / "sd-vae")
    return tmp_path / "sd-vae"


def pictures(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 256, 256, generator=torch.Generator().manual_seed(0))


# --- the protocol ----------------------------------------------------------------------------------------


def check_protocol(tokenizer, latent_shape):
    assert isinstance(tokenizer, Tokenizer)
    x = pictures()
    z = tokenizer.encode(x)
    y = tokenizer.decode(z)
    assert tokenizer.info.latent_shape == latent_shape and z.shape == (2, *latent_shape)
    assert y.shape == x.shape and y.dtype == z.dtype == torch.float32 and not y.requires_grad
    assert y.min() >= 0 and y.max() <= 1
    torch.testing.assert_close(tokenizer.decode(tokenizer.encode(x[1:])), y[1:], atol=1e-4, rtol=1e-3)
    for wrong in (x[0], x[..., :128], x[:, :1], (x * 255).byte()):
        with pytest.raises(ValueError, match=r"\(B, 3, 256, 256\)"):
            tokenizer.encode(wrong)
    with pytest.raises(ValueError, match=r"\[0, 1\].*from -1"):
        tokenizer.encode(2 * x - 1)
    with pytest.raises(ValueError, match="Latents"):
        tokenizer.decode(z[..., :8])


def test_rpiae_follows_the_protocol_and_tells_its_facts(ours, smoke_checkpoint):
    check_protocol(ours, (8, 16, 16))
    assert (ours.info.name, ours.info.downsampling) == ("rpiae", 16)
    assert ours.info.parameters == sum(parameter.numel() for parameter in ours.model.parameters())
    assert ours.info.source == smoke_checkpoint.name


def test_rpiae_from_a_pipeline_folder_and_from_its_tokenizer_folder(ours, smoke_checkpoint):
    x = pictures(1)
    assert torch.equal(load("rpiae", str(smoke_checkpoint / "vae")).encode(x), ours.encode(x))
    expected = ours.model.encode(x).latent_dist.mode()
    assert torch.equal(ours.encode(x), expected)


def test_rpiae_says_what_is_wrong_with_a_folder(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint folder"):
        load("rpiae", tmp_path / "none")
    with pytest.raises(ValueError, match=r"config.json is missing"):
        load("rpiae", tmp_path)


def test_sd_vae_follows_the_protocol(small_sd_vae):
    check_protocol(load("sd-vae", "random"), (4, 32, 32))


def test_sd_vae_has_its_published_size():
    with torch.device("meta"):
        model = sd_vae.build()
    assert sum(parameter.numel() for parameter in model.parameters()) == 83_653_863


def test_random_weights_are_the_same_each_time_and_leave_the_generator_alone(small_sd_vae):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = load("sd-vae", "random"), load("sd-vae", "random")
    assert torch.equal(torch.rand(3), expected)
    x = pictures(1)
    assert torch.equal(first.encode(x), second.encode(x))
    assert first.info.source == "random weights"


def test_half_precision_inside_float32_outside(ours):
    x = pictures(1)
    expected = ours.decode(ours.encode(x))
    try:
        ours.to(torch.bfloat16)
        y = ours.decode(ours.encode(x))
        assert y.dtype == torch.float32 and 0 < (y - expected).abs().max() < 0.1
    finally:
        ours.to(torch.float32)


# --- finding and loading ---------------------------------------------------------------------------------


def test_unknown_names_are_told_the_known_ones():
    with pytest.raises(ValueError, match="rpiae, sd-vae, va-vae, llamagen-vq, maskgit-vqgan, rae-s, rae-b, fae-d32"):
        load("sdvae")


def test_available_are_those_that_load_without_a_source(smoke_checkpoint, sd_vae_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(published, "ASSETS", tmp_path / "assets")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(rpiae, "BUNDLED", tmp_path / "none")
    assert available() == []
    for name in NAMES:
        with pytest.raises(ValueError, match="not there|not on this machine"):
            load(name)
    monkeypatch.setattr(rpiae, "BUNDLED", smoke_checkpoint)
    monkeypatch.setattr(published, "ASSETS", sd_vae_folder.parent)
    assert available() == ["rpiae", "sd-vae"]
    assert [load(name).info.name for name in available()] == ["rpiae", "sd-vae"]
    random = load("rpiae", "random")
    assert random.info.source == "random weights"
    assert random.info.parameters == load("rpiae").info.parameters


def test_sd_vae_files_of_both_generations_load(sd_vae_folder):
    """The published file has the attention layers' older names."""
    x = pictures(1)
    expected = load("sd-vae", sd_vae_folder).encode(x)
    assert torch.equal(load("sd-vae", "random").encode(x), expected)
    weights = load_file(sd_vae_folder / WEIGHTS)
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, weight in weights.items():
        for new, old in older.items():
            name = name.replace(f".{new}.", f".{old}.")
        renamed[name] = weight
    assert set(renamed) != set(weights)
    save_file(renamed, sd_vae_folder / WEIGHTS)
    assert torch.equal(load("sd-vae", sd_vae_folder).encode(x), expected)


def test_sd_vae_refuses_what_does_not_fit(sd_vae_folder):
    def refused(*words):
        with pytest.raises(ValueError) as caught:
            load("sd-vae", sd_vae_folder)
        assert "\n" not in str(caught.value)
        for word in words:
            assert word in str(caught.value)

    path = sd_vae_folder / WEIGHTS
    weights, data = load_file(path), path.read_bytes()
    name = "decoder.conv_in.bias"
    save_file({key: value for key, value in weights.items() if key != name}, path)
    refused("1 missing", name)
    save_file({**weights, "encoder.extra": torch.zeros(1)}, path)
    refused("1 unexpected", "encoder.extra")
    save_file({**weights, name: torch.zeros(3)}, path)
    refused("of another shape", name)
    path.write_bytes(data[:-100])
    refused("damaged or cut off")
    path.unlink()
    refused("holds no", WEIGHTS)
    path.write_bytes(data)
    config = json.loads((sd_vae_folder / "config.json").read_text())
    for change, word in (
        ({"latent_channels": 16}, "latent_channels"),
        ({"_class_name": "VQModel"}, "VQModel"),
    ):
        (sd_vae_folder / "config.json").write_text(json.dumps(config | change))
        refused("not the sd-vae tokenizer", word)
    (sd_vae_folder / "config.json").write_text("{")
    refused("damaged")


# --- comparison ------------------------------------------------------------------------------------------


class Dimmer:
    """A tokenizer with a known answer: it halves the brightness."""

    info = TokenizerInfo("dimmer", (3, 256, 256), 1, 0, "here", "none")

    def encode(self, x):
        return x

    def decode(self, z):
        return z / 2


def test_comparison_has_the_numbers_of_the_picture_without_its_bars():
    row = compare(Dimmer(), Image.new("RGB", (400, 200), (51, 51, 51)))  # 0.2 everywhere
    assert row.reconstruction.shape == row.error.shape == (1, 3, 128, 256)
    assert row.psnr == pytest.approx(20, abs=1e-3)
    assert row.error.unique().item() == pytest.approx(0.1)


def test_sheet_shows_every_tokenizer_also_one_that_failed(ours):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8))
    rows = [compare(ours, picture), Comparison("sd-vae", reason="Its weights are not on this machine. " * 3)]
    shown = sheet(picture, rows)
    box = images.letterbox(picture)[1].box
    width, height = box[2] - box[0], box[3] - box[1]
    pixels = np.asarray(shown)
    reconstruction = np.asarray(images.to_pil(rows[0].reconstruction)[0])
    places = [
        left
        for left in range(shown.width - width)
        if np.array_equal(pixels[20 : 20 + height, left : left + width], reconstruction)
    ]
    assert len(places) == 1
    failed = pixels[:, places[0] + width + 16 :]
    assert (failed[: 2 * height] == 255).all() and (failed[2 * height :] < 128).any()


@pytest.mark.parametrize("whole_folder", [False, True])
def test_rpiae_from_the_authors_tokenizer(golden, tmp_path, whole_folder):
    from rpiae.official import RELEASED_TOKENIZER

    file = tmp_path / RELEASED_TOKENIZER
    shutil.copy(golden.path("rpiae_stage3_1_c8_ema.pt"), file)
    tokenizer = load("rpiae", tmp_path if whole_folder else file)
    assert tokenizer.info.latent_shape == (8, 4, 4) and tokenizer.info.licence == "not stated"
    assert tokenizer.info.source == (tmp_path if whole_folder else file).name
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    z = tokenizer.encode(x)
    assert z.shape == (2, 8, 4, 4) and tokenizer.decode(z).shape == x.shape
