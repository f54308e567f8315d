"""The study's compact tokenizers: codebook, loading by name, what their own models draw, and what a codebook's
compression counts."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from rpiae.autoencoder import AutoencoderRPiAE
from rpiae.bridge import Posterior
from rpiae.pipeline import RPiAEPipeline, make_scheduler
from rpiae.text import TextEncoder
from rpiae.tokenizers import available, load, published
from rpiae.tokenizers.base import TokenizerInfo
from rpiae.tokenizers.compact import SOURCE, AutoencoderCodebook
from rpiae.tokenizers.comparison import Comparison, compare
from rpiae.tokenizers.drawing import NO_MODEL, draw, drawn_by, own_model
from rpiae.transformer import RPiAETransformer2DModel

ENCODER = {"kind": "vit", "hidden_size": 32, "num_layers": 1, "num_heads": 2}
DECODER = {
    "hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 64, "position": "rope",
    "final_norm": False, "norm_eps": 1e-6,
}  # fmt: skip
SCENES = Path(__file__).resolve().parents[1] / "fixtures" / "scenes"
BRIDGE = {"codes": 16, "code_width": 2, "split": 2, "decoder_layers": 1}


@pytest.fixture
def codebook():
    torch.manual_seed(0)
    return AutoencoderCodebook(ENCODER, DECODER, BRIDGE, 64).eval()


@pytest.fixture
def x():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["compact-rpiae", "compact-sd-vae", "compact-va-vae", "compact-rae"])
def test_those_of_the_repository_bring_a_scene_back(name):
    scene = Image.open(SCENES / "scene_0.png").convert("RGB").resize((128, 128), Image.Resampling.BOX)
    tokenizer = load(name)
    assert tokenizer.info.image_size == 128 and tokenizer.info.licence == "cc-by-sa-4.0"
    assert compare(tokenizer, scene).psnr > 21


def test_every_cell_is_a_code_and_decoding_takes_the_nearest(codebook, x):
    with torch.no_grad():
        z = codebook.encode(x).latent_dist.mode()
        assert z.shape == (2, *codebook.latent_shape) == (2, 2, 8, 8)
        codes = codebook.bridge.codebook.weight
        distances = (z.movedim(1, -1)[..., None, :] - codes).norm(dim=-1)
        assert distances.amin(-1).max() == 0
        drawn = z + 1e-3 * torch.randn(z.shape, generator=torch.Generator().manual_seed(2))
        assert torch.equal(codebook.decode(drawn).sample, codebook.decode(z).sample)


def test_gradients_pass_the_choice_of_a_code(codebook, x):
    codebook(x).mean().backward()
    assert codebook.bridge.bridge.encoder.moments.weight.grad.abs().max() > 0
    assert codebook.encoder.model.patch_embed.proj.weight.grad.abs().max() > 0


def test_fitted_codes_are_nearer_to_what_comes_before_them(codebook, x):
    features = codebook.encode_features(x).detach()
    values = codebook.bridge.before_codes(features).detach()

    def error():
        return (codebook.bridge.to_codes(values) - values).square().mean().item()

    before = error()
    codebook.bridge.fit_codes(features)
    assert error() < before / 4


def test_codes_begin_far_apart_and_share_what_counts(codebook):
    """Of values whose first channels vary most, as after a linear start, each of a cell's codes has its part, and all
    codes have something to stand for."""
    spread = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.12, 0.06]).view(1, -1, 1, 1)
    cells = spread * torch.randn(16, 8, 4, 4, generator=torch.Generator().manual_seed(2))
    codebook.bridge.bridge.encode = lambda feature_map: Posterior(cells, torch.zeros_like(cells))
    values = codebook.bridge.before_codes(cells)
    places = values.unflatten(-1, (4, 2)).unflatten(-3, (4, 2)).square().mean((0, 1, 2, 4)).flatten()
    assert places.max() < 70 * places.min()  # dealt out by fours it would be 4,000
    codebook.bridge.fit_codes(cells)
    assert len(codebook.bridge.nearest(values).unique()) == 16


def test_by_name_from_the_assets(codebook, x, tmp_path, monkeypatch):
    monkeypatch.setattr(published, "ASSETS", tmp_path)
    torch.manual_seed(3)
    kl = AutoencoderRPiAE(ENCODER, DECODER, {"latent_channels": 4, "decoder_layers": 1}, 64).eval()
    codebook.save_pretrained(tmp_path / "compact-vqgan" / "vae")
    kl.save_pretrained(tmp_path / "compact-sd-vae" / "vae")
    (tmp_path / "compact-sd-vae" / "README.md").write_text("---\nlicense: cc-by-sa-4.0\n---\n")
    assert [name for name in available() if name.startswith("compact-")] == ["compact-sd-vae", "compact-vqgan"]
    for name, model, shape, codes in (
        ("compact-vqgan", codebook, (2, 8, 8), 16),
        ("compact-sd-vae", kl, (4, 4, 4), None),
    ):
        found = load(name)
        info = found.info
        assert (info.name, info.latent_shape, info.codes, info.image_size) == (name, shape, codes, 64)
        assert info.source == SOURCE and info.parameters == sum(one.numel() for one in model.parameters())
        with torch.no_grad():
            torch.testing.assert_close(found.decode(found.encode(x)), model(x).clamp(0, 1))
    assert load("compact-sd-vae").info.licence == "cc-by-sa-4.0"
    alone = load("compact-sd-vae", tmp_path / "compact-sd-vae" / "vae")  # a result of training, in no pipeline's folder
    assert alone.info.source == "vae" and load("compact-sd-vae").info.source == "compact, trained here for the study"
    assert alone.info.latent_shape == (4, 4, 4) and own_model(alone, tmp_path / "compact-sd-vae" / "vae") is None
    with pytest.raises(ValueError, match="no compact tokenizer 'compact-rae'.*compact-sd-vae, compact-vqgan"):
        load("compact-rae")
    with pytest.raises(ValueError, match="no random weights"):
        load("compact-vqgan", "random")


def test_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(ValueError, match="holds a AutoencoderKL; a compact tokenizer is one of AutoencoderRPiAE"):
        load("compact-rae", tmp_path)


def autoencoder(kind):
    """One with each kind of latent; the transformer's patches make 4 x 4 tokens of it."""
    torch.manual_seed(3)
    if kind == "codes":
        return AutoencoderCodebook(ENCODER, DECODER, BRIDGE, 64).eval(), 2
    bridge = {"latent_channels": 4, "decoder_layers": 1} if kind == "bridge" else None
    return AutoencoderRPiAE(ENCODER, DECODER, bridge, 64, latents_scale=[0.5] * (4 if bridge else 32)).eval(), 1


@pytest.mark.parametrize("kind", ["bridge", "features", "codes"])
def test_a_tokenizers_own_model_draws_and_edits_as_the_pipeline_that_was_saved(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(published, "ASSETS", tmp_path)
    vae, patch = autoencoder(kind)
    text_encoder = TextEncoder("sentence-transformers/all-MiniLM-L6-v2", layers=[6])
    channels, side, _ = vae.latent_shape
    transformer = RPiAETransformer2DModel(
        in_channels=channels, sample_size=side, patch_size=patch, hidden_size=32, num_layers=1, num_heads=2,
        feed_forward_size=64, text_width=text_encoder.width, text_slots=64,
    ).eval()  # fmt: skip
    for parameter in transformer.parameters():  # untrained blocks are the identity
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    settings = {"num_inference_steps": 2, "guidance_scale": 2.0, "image_guidance_scale": 1.0}
    pipe = RPiAEPipeline(vae, transformer, text_encoder, make_scheduler(3.0), settings)
    pipe.save_pretrained(tmp_path / "compact-rae")
    assert not list((tmp_path / "compact-rae" / "text_encoder").glob("*.safetensors"))

    tokenizer = load("compact-rae")
    found = own_model(tokenizer)
    assert found.vae is tokenizer.model  # no second copy
    wide = Image.linear_gradient("L").convert("RGB").resize((90, 60))
    for picture in (None, wide):
        given = {} if picture is None else {"image": picture, "preserve_unchanged": False}
        noise = torch.Generator().manual_seed(7)
        wanted = pipe("a red car", generator=noise, output_type="pt", **given).images
        drawing = draw(found, "a red car", picture, seed=7)
        # Of the wide picture 64 x 43 pixels, in the middle of the square.
        torch.testing.assert_close(drawing.picture, wanted if picture is None else wanted[..., 10:53, :])
        assert (drawing.steps, drawing.guidance_scale) == (2, 2.0) and drawing.seconds > 0
    row = Comparison("compact-rae", tokenizer.info, drawing=drawing).numbers()
    assert (row["prompt"], row["seed"], row["psnr"]) == ("a red car", 7, None) and len(row["drawn_sha256"]) == 64

    shutil.rmtree(tmp_path / "compact-rae" / "transformer")
    broken = drawn_by(tokenizer, None, "a red car", None, 7)
    assert broken.picture is None and "no checkpoint folder" in broken.reason
    (tmp_path / "compact-rae" / "model_index.json").unlink()
    assert drawn_by(tokenizer, None, "a red car", None, 7).reason == NO_MODEL
    assert compare(tokenizer, None).info is tokenizer.info


def test_compression_of_a_codebook_counts_bits():
    info = TokenizerInfo("llamagen-vq", (8, 16, 16), 16, 1, "", "", codes=16384)
    bits = 8 * 3 * 256**2
    assert Comparison("llamagen-vq", info).compression == pytest.approx(bits / (256 * 14))
    numbers = TokenizerInfo("sd-vae", (4, 32, 32), 8, 1, "", "")
    assert Comparison("sd-vae", numbers).compression == 3 * 256**2 / math.prod((4, 32, 32)) == 48
    assert Comparison("sd-vae", reason="not there").compression is None
