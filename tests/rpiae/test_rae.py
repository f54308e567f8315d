"""RAE-S and RAE-B: files with the published names, old and new, against diffusers' AutoencoderRAE and transformers'
DINOv2."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from rpiae.tokenizers import Tokenizer, available, load, published, rae

WIDTH = 64
# As transformers 4 wrote them into the published files, and as the authors' decoder has them.
OLD_ENCODER = {
    "q_proj": "attention.query",
    "k_proj": "attention.key",
    "v_proj": "attention.value",
    "o_proj": "output.dense",
}
OLD_DECODER = {
    "to_q": "attention.query",
    "to_k": "attention.key",
    "to_v": "attention.value",
    "to_out.0": "output.dense",
}


@pytest.fixture(autouse=True)
def narrow(monkeypatch, tmp_path):
    small = {"encoder_num_hidden_layers": 2, "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1}
    small |= {"decoder_num_attention_heads": 2, "decoder_intermediate_size": 48}
    for name, value in small.items():
        monkeypatch.setitem(rae.ARCHITECTURE, name, value)
    monkeypatch.setitem(rae.WIDTHS, "rae-s", WIDTH)
    monkeypatch.setattr(rae, "SMALL", rae.RAE("rae-s", rae.SMALL.PUBLISHED.hub_id))
    monkeypatch.setattr(published, "ASSETS", tmp_path / "assets")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def theirs():
    """Diffusers' model with every weight random and statistics of every position, as the published ones have."""
    torch.manual_seed(0)
    model = rae.SMALL.build((WIDTH, 16, 16)).eval()
    for tensor in (*model.parameters(), model._latents_mean):
        tensor.data.normal_(std=0.1)
    model._latents_std.uniform_(0.5, 2)
    return model


def renamed(name):
    table = OLD_ENCODER if name.startswith("encoder.") else OLD_DECODER
    for new, old in table.items():
        name = name.replace(f".attention.{new}.", f".attention.{old}.")
    return name


@pytest.fixture
def old_folder(theirs, tmp_path):
    """The folder with the names of transformers 4."""
    folder = tmp_path / "old"
    theirs.save_pretrained(folder)
    path = folder / "diffusion_pytorch_model.safetensors"
    weights = {renamed(name): tensor for name, tensor in load_file(path).items()}
    assert sum(".attention.attention." in name for name in weights) == 2 * (2 + 1) * 3
    save_file(weights, path)
    return folder


def picture():
    return torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def check(tokenizer, theirs):
    x = picture()
    z = tokenizer.encode(x)
    expected = theirs.encode(x).latent
    assert isinstance(tokenizer, Tokenizer) and z.shape == (2, *tokenizer.info.latent_shape)
    torch.testing.assert_close(z, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokenizer.decode(z), theirs.decode(expected).sample.clamp(0, 1), atol=1e-5, rtol=1e-5)
    assert z.std() > 0.1 and tokenizer.decode(z).std() > 0.01


def test_files_of_both_generations_give_what_diffusers_gives(theirs, old_folder, tmp_path):
    theirs.save_pretrained(tmp_path / "new")
    for folder in (tmp_path / "new", old_folder):
        check(load("rae-s", folder), theirs)
    tokenizer = load("rae-s", old_folder / "diffusion_pytorch_model.safetensors")
    check(tokenizer, theirs)
    assert tokenizer.info.latent_shape == (WIDTH, 16, 16) and tokenizer.info.downsampling == 16
    assert tokenizer.info.licence == "MIT"


def test_old_names_mean_what_transformers_takes_them_for(old_folder, tmp_path):
    """Transformers' own reader of old files, given our file's encoder, sees the tokens that ours sees."""
    weights = load_file(old_folder / "diffusion_pytorch_model.safetensors")
    part = {name.removeprefix("encoder."): one for name, one in weights.items() if name.startswith("encoder.")}
    part |= {"layernorm.weight": torch.ones(WIDTH), "layernorm.bias": torch.zeros(WIDTH)}
    config = Dinov2WithRegistersConfig(
        hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=1, image_size=518, patch_size=14
    )
    config.save_pretrained(tmp_path / "dino")
    save_file(part, tmp_path / "dino" / "model.safetensors", metadata={"format": "pt"})
    dino = Dinov2WithRegistersModel.from_pretrained(tmp_path / "dino").eval()
    ours = load("rae-s", old_folder).model
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = dino(x).last_hidden_state
        torch.testing.assert_close(ours.encoder(x).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


def test_a_folder_that_does_not_fit_is_refused(old_folder):
    path = old_folder / "diffusion_pytorch_model.safetensors"
    weights, data = load_file(path), path.read_bytes()
    query = "encoder.encoder.layer.1.attention.attention.query.weight"

    def refused(changed, *words):
        save_file(changed, path)
        with pytest.raises(ValueError) as caught:
            load("rae-s", old_folder)
        assert all(word in str(caught.value) for word in words), str(caught.value)

    without = {name: one for name, one in weights.items() if name != query}
    refused(without, "1 missing", "encoder.encoder.layer.1.attention.q_proj.weight")
    refused(weights | {"encoder.layernorm.weight": torch.ones(WIDTH)}, "1 unexpected", "encoder.layernorm.weight")
    refused(weights | {"_latents_std": torch.ones(3)}, "of another shape", "_latents_std")
    refused(weights | {"decoder.decoder_pos_embed": torch.zeros(1, 257, 32)}, "decoder_pos_embed")
    larger = {name: torch.ones(WIDTH, 32, 32) for name in ("_latents_mean", "_latents_std")}  # of pictures of 512 px
    refused(weights | larger, "statistics", "32, 32")
    table = rae.SMALL.build().decoder.decoder_pos_embed.clone()
    save_file(weights | {"decoder.decoder_pos_embed": table}, path)
    load("rae-s", old_folder)
    path.write_bytes(data[:-100])
    with pytest.raises(ValueError, match="damaged or cut off"):
        load("rae-s", old_folder)
    path.write_bytes(data)
    config = json.loads((old_folder / "config.json").read_text())
    (old_folder / "config.json").write_text(json.dumps(config | {"image_size": None}))  # as the converter writes it
    load("rae-s", old_folder)
    for change, word in (
        ({"encoder_hidden_size": 768}, "encoder_hidden_size"),
        ({"_class_name": "AutoencoderKL"}, "another class, AutoencoderKL"),
    ):
        (old_folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=f"not the rae-s tokenizer: its config.json says .*{word}"):
            load("rae-s", old_folder)


def test_sources(theirs, tmp_path):
    for name in ("rae-s", "rae-b"):
        with pytest.raises(ValueError, match=f"{name} are not on this machine.*nyu-visionx"):
            load(name)
    theirs.save_pretrained(tmp_path / "assets" / "rae-s")
    assert "rae-s" in available() and "rae-b" not in available()
    check(load("rae-s"), theirs)
    first, second = load("rae-s", "random"), load("rae-s", "random")
    assert torch.equal(first.encode(picture()), second.encode(picture()))
    assert first.info.parameters == load("rae-s").info.parameters


@pytest.mark.parametrize(
    ("name", "encoder", "decoder", "width"),
    [("rae-s", 22_057_344, 414_614_272, 384), ("rae-b", 86_582_016, 415_056_640, 768)],
)
def test_published_sizes(name, encoder, decoder, width, monkeypatch):
    monkeypatch.undo()
    entry = {"rae-s": rae.SMALL, "rae-b": rae.BASE}[name]
    model = published.empty(entry.build)
    counts = [sum(one.numel() for one in part.parameters()) for part in (model.encoder, model.decoder)]
    assert counts == [encoder, decoder]
    info = entry.PUBLISHED.info(model, "nowhere")
    assert info.latent_shape == (width, 16, 16) and info.parameters == encoder + decoder
    tokenizer = rae.RAETokenizer(model.to("meta"), info)
    with torch.no_grad():
        z = tokenizer.encode_(torch.zeros(1, 3, 256, 256, device="meta"))
        assert z.shape == (1, width, 16, 16) and tokenizer.decode_(z).shape == (1, 3, 256, 256)
