"""The authors' files: their numbers, their layouts, their real sizes, and a sentence for every wrong file."""

import json
import os
import pickle
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from rpiae import AutoencoderRPiAE, LightningDiT2DModel
from rpiae.bridge import Posterior, VariationalBridge
from rpiae.official import is_official, locate
from rpiae.official_layout import (
    TOKENIZER_NAMES,
    TRANSFORMER_NAMES,
    Sizes,
    official_names,
    tokenizer_settings,
    transformer_settings,
)
from rpiae.tokenizers import rpiae as rpiae_tokenizer

GOLDEN = Path(__file__).resolve().parents[1] / "fixtures" / "golden"
MANIFEST = json.loads((GOLDEN / "manifest.json").read_text())["files"]

TOKENIZER, STAGE_1 = "rpiae_stage3_1_c8_ema.pt", "stage1_ep-0000016.pt"
DIT, GUIDANCE_DIT = "dit_ep-0000800.pt", "dit_guidance_ep-0000020.pt"
INPUTS = {"images", "images_other_size", "images_native_size", "moments", "moments_eps", "feature_map"}


def outputs(file: str) -> list[str]:
    return [name for name in MANIFEST[file]["tensors"] if name not in INPUTS]


@pytest.fixture(scope="module")
def vae() -> AutoencoderRPiAE:
    return AutoencoderRPiAE.from_official(GOLDEN / TOKENIZER, encoder_num_heads=3, decoder_num_heads=4)


# --- their numbers -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer_numbers(vae, golden) -> dict[str, torch.Tensor]:
    given = golden.tensors("tokenizer.safetensors")
    clamped = Posterior.from_moments(given["moments"])
    elementwise = clamped.mean.square() + clamped.logvar.exp() - 1 - clamped.logvar
    with torch.no_grad():
        seen = []
        handle = vae.encoder.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        posterior = vae.encode(given["images"]).latent_dist
        handle.remove()
        return {
            "encoder_input_first": seen[0][:1],
            "encoder_map": vae.encode_features(given["images"]),
            "posterior_mean": posterior.mean,
            "posterior_logvar": posterior.logvar,
            "decoded_feature_map": vae.bridge.decode(posterior.mode()),
            "reconstruction": vae(given["images"]),
            "latent_other_size": vae.encode(given["images_other_size"]).latent_dist.mode(),
            "latent_native_size": vae.encode(given["images_native_size"]).latent_dist.mode(),
            "moments_logvar": clamped.logvar,
            "moments_kl_elementwise": elementwise,
            "moments_kl_mean": clamped.kl(),
            "moments_kl_half_sum": 0.5 * elementwise.sum((1, 2, 3)),
            "moments_sample": clamped.sample(noise=given["moments_eps"]),
        }


@pytest.mark.parametrize("name", outputs("tokenizer.safetensors"))
def test_the_tokenizer_gives_the_authors_numbers(name, golden, tokenizer_numbers):
    golden.check("tokenizer.safetensors", name, tokenizer_numbers[name])


def hashed(name: str, shape: tuple[int, ...], recipe: dict) -> torch.Tensor:
    """A tensor of the real-size bridge, by the recipe of the golden config."""
    index = np.arange(int(np.prod(shape)), dtype=np.uint64)
    mask = np.uint64(0xFFFFFFFF)
    h = (index * np.uint64(2654435761) + np.uint64(zlib.crc32(name.encode()) + recipe["salt"])) & mask
    h = ((h ^ (h >> np.uint64(16))) * np.uint64(0x85EBCA6B)) & mask
    h = ((h ^ (h >> np.uint64(13))) * np.uint64(0xC2B2AE35)) & mask
    u = (h ^ (h >> np.uint64(16))).astype(np.float64) / 2**32
    a, b = (0.3, 1.0) if "norm" in name and name.endswith(".weight") else (0.2, 0.0)
    if len(shape) == 2:
        a, b = np.sqrt(3 / shape[1]), 0.0
    return torch.from_numpy(((2 * u - 1) * a + b).astype(np.float32)).view(shape)


def test_the_hash_recipe_is_read_right(golden):
    for name, values in golden.facts["hash_probe"].items():
        shape = (128, 768) if name.endswith("to_moments.weight") else (768,)
        made = hashed(name, shape, golden.config["bridge_real_size"]).flatten()[: len(values)]
        assert made.tolist() == pytest.approx(values, abs=1e-7)


@torch.no_grad()
def test_the_bridge_at_its_real_size_gives_the_authors_numbers(golden):
    file, recipe = "bridge_real_size.safetensors", golden.config["bridge_real_size"]
    bridge = VariationalBridge(recipe["hidden"], recipe["latent_dim"], decoder_layers=recipe["decoder_layers"])
    weights = {}
    for name, tensor in bridge.state_dict().items():
        (theirs,) = official_names(f"bridge.{name}", TOKENIZER_NAMES)
        weights[name] = hashed(theirs, tuple(tensor.shape), recipe)
    bridge.load_state_dict(weights)
    posterior = bridge.encode(golden.tensors(file)["feature_map"])
    found = {
        "posterior_mean": posterior.mean,
        "posterior_logvar": posterior.logvar,
        "decoded_feature_map": bridge.decode(posterior.mode()),
    }
    assert found.keys() == set(outputs(file))
    for name, tensor in found.items():
        golden.check(file, name, tensor)


def test_bridge_heads_follow_the_authors_rule(golden):
    for hidden, heads in golden.facts["bridge_heads_rule"]["examples"].items():
        assert VariationalBridge(int(hidden), 8, decoder_layers=1).decoder.blocks[0].attention.num_heads == heads


# --- their real sizes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "model", "names", "settings"),
    [
        ("tokenizer", AutoencoderRPiAE, TOKENIZER_NAMES, lambda sizes: tokenizer_settings(sizes, 12, 16, True)),
        ("dit", LightningDiT2DModel, TRANSFORMER_NAMES, lambda sizes: transformer_settings(sizes, 16)),
    ],
)
def test_at_real_size_every_key_and_shape_is_the_authors(file, model, names, settings):
    listed = json.loads((GOLDEN / f"official_{file}_keys.json").read_text())
    theirs = {name: tuple(entry["shape"]) for name, entry in listed["keys"].items()}
    with torch.device("meta"):
        ours = model(**settings(Sizes(theirs)))
    assert sum(parameter.numel() for parameter in ours.parameters()) == listed["total_parameters"]
    made = {}
    for name, tensor in ours.state_dict().items():
        parts = official_names(name, names)
        made |= {part: (tensor.shape[0] // len(parts), *tensor.shape[1:]) for part in parts}
    assert made == theirs


def test_the_defaults_of_the_transformer_are_the_released_one():
    shapes = json.loads((GOLDEN / "official_dit_keys.json").read_text())["keys"]
    settings = transformer_settings(Sizes({name: tuple(entry["shape"]) for name, entry in shapes.items()}), 16)
    with torch.device("meta"):
        assert {name: LightningDiT2DModel().config[name] for name in settings} == settings


# --- layouts -------------------------------------------------------------------------------------------------------


def bare(name: str) -> dict[str, torch.Tensor]:
    content = torch.load(GOLDEN / name, weights_only=True)
    return content.get("ema", content)


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def transformers_5(name: str) -> str:
    if name.startswith("encoder."):
        for new, old in TOKENIZER_NAMES["encoder."][1:]:
            name = name.replace(old, new)
    return name


LAYOUTS = {
    "averaged": lambda w: {"ema": w},
    "training": lambda w: {"step": 1, "epoch": 2, "model": {k: v * 0 + 0.123 for k, v in w.items()}, "ema": w},
    "module.": lambda w: {f"module.{name}": tensor for name, tensor in w.items()},
    "_orig_mod.": lambda w: {"ema": {f"module._orig_mod.{name}": tensor for name, tensor in w.items()}},
    "transformers 5": lambda w: {transformers_5(name): tensor for name, tensor in w.items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_tokenizer(layout, vae, tmp_path):
    torch.save(LAYOUTS[layout](bare(TOKENIZER)), tmp_path / "x.pt")
    assert same(AutoencoderRPiAE.from_official(tmp_path / "x.pt", 3, 4), vae)


def test_a_file_of_an_old_pytorch_is_read(vae, tmp_path):
    torch.save(bare(TOKENIZER), tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    assert same(AutoencoderRPiAE.from_official(tmp_path / "x.pt", 3, 4), vae)


def test_loaded_weights_are_copies_in_memory(vae, tmp_path):
    """Whoever replaces the file while a server runs does not change its pictures, or end it."""
    torch.save(bare(TOKENIZER), tmp_path / "x.pt")
    loaded = AutoencoderRPiAE.from_official(tmp_path / "x.pt", 3, 4)
    (tmp_path / "x.pt").write_bytes(b"")
    assert same(loaded, vae)
    assert not loaded.training and all(p.requires_grad for p in loaded.parameters())


def test_files_are_copied_slice_by_slice(vae, monkeypatch):
    monkeypatch.setattr("rpiae.official.SLICE", 20_000)
    assert same(AutoencoderRPiAE.from_official(GOLDEN / TOKENIZER, 3, 4), vae)


def test_a_dtype_is_kept_for_all_weights_but_the_frequencies():
    weights = LightningDiT2DModel.from_official(GOLDEN / DIT, 4, torch_dtype=torch.bfloat16).state_dict()
    frequencies = LightningDiT2DModel.from_official(GOLDEN / DIT, 4).frequencies
    assert torch.equal(weights.pop("frequencies"), frequencies) and frequencies.dtype == torch.float32
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}


def test_a_folder_stands_for_the_released_file_in_it(vae, tmp_path):
    torch.save(bare(TOKENIZER), tmp_path / "rpiae_stage3_1_c64_ema.pt")
    assert is_official(tmp_path) and same(AutoencoderRPiAE.from_official(tmp_path, 3, 4), vae)
    with pytest.raises(ValueError, match="holds no ep-0000800.pt"):
        LightningDiT2DModel.from_official(tmp_path)
    (tmp_path / "LightningDiT").mkdir()
    torch.save(bare(DIT), tmp_path / "LightningDiT" / "ep-0000800.pt")
    assert LightningDiT2DModel.from_official(tmp_path, 4).config.num_layers == 3


def test_the_hub_is_asked_for_the_released_file_only(monkeypatch):
    asked = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *names: asked.append(names) or "x.pt")
    locate("hf:qihoo360/RPiAE", "LightningDiT/ep-0000800.pt")
    locate("hf:qihoo360/RPiAE/LightningDiT/ep-0000020.pt", "LightningDiT/ep-0000800.pt")
    assert asked == [
        ("qihoo360/RPiAE", "LightningDiT/ep-0000800.pt"),
        ("qihoo360/RPiAE", "LightningDiT/ep-0000020.pt"),
    ]
    assert is_official("hf:qihoo360/RPiAE") and not is_official("hf:someone/stickers-256")


def test_a_stage_1_file_has_an_encoder_and_a_replica():
    trained = AutoencoderRPiAE.from_official(GOLDEN / STAGE_1, 2, 3, bridge=False)
    replica = AutoencoderRPiAE.from_official(GOLDEN / STAGE_1, 2, 3, bridge=False, pivot_replica=True)
    assert trained.bridge is None and trained.latent_shape == (16, 4, 4)
    assert same(trained.decoder, replica.decoder) and not same(trained.encoder, replica.encoder)
    with pytest.raises(ValueError, match="give bridge=False as well"):
        AutoencoderRPiAE.from_official(GOLDEN / STAGE_1, 2, 3, pivot_replica=True)


def test_the_compare_tab_reads_an_official_file(vae, monkeypatch):
    monkeypatch.setattr(AutoencoderRPiAE, "from_official", lambda source: vae)
    info = rpiae_tokenizer.load(GOLDEN / TOKENIZER).info
    assert (info.source, info.latent_shape, info.image_size) == (TOKENIZER, (8, 4, 4), 64)


# --- wrong files ---------------------------------------------------------------------------------------------------


class Code:
    def __reduce__(self):
        return (os.mkdir, ("opened",))


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"ema": Code()}))


def cut(path: Path) -> None:
    path.write_bytes((GOLDEN / TOKENIZER).read_bytes()[:300_000])


def saved(content) -> object:
    return lambda path: torch.save(content() if callable(content) else content, path)


def decoder_alone() -> dict:
    return {name[len("decoder.") :]: one for name, one in bare(TOKENIZER).items() if name.startswith("decoder.")}


def copied(name: str):
    return lambda path: path.write_bytes((GOLDEN / name).read_bytes())


WRONG = {
    "stage 1": (copied(STAGE_1), "is a stage-1 tokenizer (encoder and pixel decoder, no bridge), wanted is a whole"),
    "dit": (copied(DIT), "is a LightningDiT, wanted is a whole tokenizer"),
    "decoder": (saved(decoder_alone), "is a pixel decoder alone, wanted is a whole tokenizer"),
    "other model": (saved({"layer1.weight": torch.zeros(3)}), "its first tensors are layer1.weight"),
    "nothing": (saved({}), "its first tensors are none"),
    "cut off": (cut, "is cut off; fetch it again"),
    "code": (saved({"ema": Code()}), "holds code, not weights alone, so it was not opened"),
    "pickled code": (pickled, "holds code, not weights alone, so it was not opened"),
    "text": (lambda path: path.write_text("weights\n" * 99), "is no PyTorch file"),
    "empty": (lambda path: path.write_bytes(b""), "is no PyTorch file, it is empty"),
    "safetensors": (copied("tokenizer.safetensors"), "is a safetensors file"),
    "zip": (lambda path: path.write_bytes(b"PK\x05\x06" + bytes(18)), "is damaged, or no PyTorch file"),
    "no average": (saved({"model": {}, "step": 3}), "not its averaged weights ('ema')"),
    "a tensor": (saved(torch.zeros(3)), "holds a Tensor, wanted are the weights of a model"),
    "a list": (saved({"ema": [1, 2]}), "holds a list under 'ema'"),
    "settings": (saved({"ema": {"a.b": 3}}), "not weights: a.b"),
    "whole numbers": (saved(lambda: {k: v.long() for k, v in bare(TOKENIZER).items()}), "not floating point"),
}


@pytest.mark.parametrize("name", WRONG)
def test_every_wrong_file_is_a_sentence(name, tmp_path, monkeypatch):
    write, said = WRONG[name]
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "x.pt")
    with pytest.raises(ValueError) as error:
        AutoencoderRPiAE.from_official(tmp_path / "x.pt", 3, 4)
    assert said in str(error.value) and str(error.value).startswith("x.pt ")
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == ["x.pt"]


def test_a_tokenizer_is_no_transformer():
    with pytest.raises(ValueError, match="is a whole tokenizer .*, wanted is a LightningDiT"):
        LightningDiT2DModel.from_official(GOLDEN / TOKENIZER)
    with pytest.raises(ValueError, match="is a whole tokenizer .*, wanted is a stage-1 tokenizer"):
        AutoencoderRPiAE.from_official(GOLDEN / TOKENIZER, 3, 4, bridge=False)


def test_a_missing_file_is_named():
    with pytest.raises(ValueError, match="there is no file 'none.pt'"):
        AutoencoderRPiAE.from_official("none.pt")


# Of each kind one, and each that tells a size.
KEYS = [
    "encoder.encoder.embeddings.cls_token",
    "encoder.encoder.embeddings.register_tokens",
    "encoder.encoder.embeddings.position_embeddings",
    "encoder.encoder.embeddings.patch_embeddings.projection.weight",
    "encoder.encoder.encoder.layer.1.attention.attention.key.weight",
    "encoder.encoder.encoder.layer.0.norm1.weight",
    "encoder.encoder.encoder.layer.0.mlp.fc1.weight",
    "decoder.decoder_pos_embed",
    "decoder.decoder_embed.weight",
    "decoder.decoder_layers.1.attention.attention.value.bias",
    "decoder.decoder_layers.0.layernorm_before.weight",
    "decoder.decoder_pred.weight",
    "vb_feature_encoder.to_moments.weight",
    "vb_feature_encoder.attn.in_proj_bias",
    "vb_feature_decoder.net.5.self_attn.in_proj_weight",
    "vb_feature_decoder.in_proj.weight",
]


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_misshapen_or_unexpected_tensor_is_named(key, tmp_path):
    weights = bare(TOKENIZER)
    tensor = weights[key]
    smaller = tensor[:-1] if tensor.shape[0] > 1 else tensor[..., :-1]
    changes = {
        "missing": {name: one for name, one in weights.items() if name != key},
        "of another shape": weights | {key: smaller.clone()},
        "unexpected": weights | {f"{key}.odd": tensor},
    }
    for fault, content in changes.items():
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(ValueError) as error:
            AutoencoderRPiAE.from_official(tmp_path / "x.pt", 3, 4)
        assert fault in str(error.value) and key in str(error.value), str(error.value)


def test_numbers_of_heads_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="encoder_num_heads=5 does not divide the width 24"):
        AutoencoderRPiAE.from_official(GOLDEN / TOKENIZER, 5, 4)
    with pytest.raises(ValueError, match="decoder_num_heads=0 does not divide the width 32"):
        AutoencoderRPiAE.from_official(GOLDEN / TOKENIZER, 3, 0)
    with pytest.raises(ValueError, match="so give num_heads=4"):
        LightningDiT2DModel.from_official(GOLDEN / DIT)
