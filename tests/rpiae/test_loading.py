"""A checkpoint loads whole and right, or a sentence says what is wrong with it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from rpiae import AutoencoderRPiAE, RPiAEPipeline
from rpiae.loading import WEIGHTS, source_name


@pytest.fixture
def folder(smoke_checkpoint, tmp_path):
    """A checkpoint of one's own, to damage."""
    return shutil.copytree(smoke_checkpoint, tmp_path / "checkpoint")


def change_weights(folder, change):
    path = folder / "transformer" / WEIGHTS
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def change_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def rename(tensors):
    tensors["no.such.weight"] = tensors.pop("output.weight")


def reshape(tensors):
    tensors["output.weight"] = tensors["output.weight"][:-1].clone()


DAMAGES = {
    "no folder": (lambda f: shutil.rmtree(f), "no checkpoint folder"),
    "no index": (lambda f: (f / "model_index.json").unlink(), "model_index.json is missing"),
    "broken index": (lambda f: (f / "model_index.json").write_text("{"), "does not hold JSON"),
    "foreign index": (lambda f: change_json(f / "model_index.json", _class_name="Flux"), "holds a Flux"),
    "no weights": (lambda f: (f / "vae" / WEIGHTS).unlink(), "has no weights"),
    "cut off": (lambda f: (f / "vae" / WEIGHTS).write_bytes((f / "vae" / WEIGHTS).read_bytes()[:5000]), "damaged"),
    "not safetensors": (lambda f: (f / "vae" / WEIGHTS).write_bytes(b"PK\x03\x04 pickled"), "damaged"),
    "missing key": (lambda f: change_weights(f, lambda t: t.pop("output.bias")), "1 missing: output.bias"),
    "renamed key": (lambda f: change_weights(f, rename), "1 missing: output.weight; 1 unexpected: no.such.weight"),
    "other shape": (lambda f: change_weights(f, reshape), "of another shape: output.weight"),
    "foreign component": (lambda f: change_json(f / "vae/config.json", _class_name="Other"), "holds a Other"),
    "foreign text encoder": (lambda f: change_json(f / "text_encoder/config.json", _class_name="T5"), "holds a T5"),
    "no such layer": (lambda f: change_json(f / "text_encoder/config.json", layers=[99]), "layers [99] are not all"),
    "unknown text setting": (lambda f: change_json(f / "text_encoder/config.json", foo=1), "does not describe"),
    "other slots": (lambda f: change_json(f / "text_encoder/config.json", max_tokens=32), "32 slots"),
    "foreign scheduler": (
        lambda f: change_json(f / "scheduler/scheduler_config.json", _class_name="DDIMScheduler"), "DDIMScheduler"),
    "unknown setting": (lambda f: change_json(f / "transformer" / "config.json", depth=3), "does not describe"),
    "other text model": (lambda f: change_json(f / "text_encoder" / "config.json", sha256="0" * 64), "SHA-256"),
    "text not installed": (lambda f: change_json(f / "text_encoder" / "config.json", model="no/such"), "no/such"),
    "no heads": (lambda f: change_json(f / "transformer" / "config.json", num_heads=0), "does not describe"),
    "a shift in words": (
        lambda f: change_json(f / "scheduler/scheduler_config.json", shift="3"), "does not describe a scheduler"),
    "a size in words": (lambda f: change_json(f / "vae" / "config.json", image_size="256"), "image_size must be a"),
    "too few constants": (lambda f: change_json(f / "vae" / "config.json", latents_mean=[0.0]), "has 1 numbers"),
    "no scheduler": (lambda f: shutil.rmtree(f / "scheduler"), "scheduler_config.json is missing"),
    "defaults that are none": (lambda f: change_json(f / "model_index.json", defaults=[6]), "defaults name num_inf"),
    "unknown default": (lambda f: change_json(f / "model_index.json", defaults={"steps": 6}), "defaults name num_inf"),
    "bad region": (lambda f: change_json(f / "model_index.json", region={"low": 2}), "low <= high"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_is_a_sentence(folder, name):
    damage, said = DAMAGES[name]
    damage(folder)
    with pytest.raises(ValueError) as error:
        RPiAEPipeline.from_pretrained(folder)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_components_that_do_not_fit_each_other_are_refused(folder):
    pipe = RPiAEPipeline.from_pretrained(folder)
    pipe.vae.register_to_config(image_size=128)
    with pytest.raises(ValueError, match="latent has 8 rows, the transformer wants 16"):
        pipe.check_components()


def test_a_loaded_model_does_not_change_with_its_file(folder):
    vae = AutoencoderRPiAE.from_pretrained(folder / "vae")
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    state = torch.get_rng_state()
    with (folder / "vae" / WEIGHTS).open("r+b") as file:
        file.seek(20_000)
        file.write(bytes(100_000))
    assert all(torch.equal(tensor, before[name]) for name, tensor in vae.state_dict().items())
    AutoencoderRPiAE.from_pretrained(folder / "vae")
    assert torch.equal(torch.get_rng_state(), state)  # nor does loading draw random weights


class Breaking(Exception):
    """As the layers below the hub's client raise: no OSError."""


@pytest.mark.parametrize(("fault", "said"), [(Breaking("proxy refused"), "proxy refused"), (Breaking(), "Breaking")])
def test_whatever_breaks_a_download_is_a_sentence(monkeypatch, fault, said):
    def download(*_, **__):
        raise fault

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(ValueError, match=f"could not fetch 'org/name' from the hub: {said}"):
        RPiAEPipeline.from_pretrained("hf:org/name")


def test_a_mistyped_hub_name_never_asks_the_hub():
    with pytest.raises(ValueError, match="for a hub model write hf:"):
        RPiAEPipeline.from_pretrained("some/model")


def test_a_source_is_told_by_its_own_name(tmp_path):
    (tmp_path / "b1946ac9").touch()
    (tmp_path / "released.pt").symlink_to(tmp_path / "b1946ac9")  # as the hub's files lie on this disk
    assert source_name(tmp_path / "released.pt") == "released.pt"
    assert source_name(f"{tmp_path}/folder/.") == "folder" and source_name("hf:org/name") == "hf:org/name"


@torch.no_grad()
def test_saved_and_loaded_again_is_the_same(smoke_checkpoint, tmp_path):
    pipe = RPiAEPipeline.from_pretrained(smoke_checkpoint)
    pipe.save_pretrained(tmp_path / "again")
    again = RPiAEPipeline.from_pretrained(tmp_path / "again")
    for name in ("vae", "transformer"):
        first, second = getattr(pipe, name).state_dict(), getattr(again, name).state_dict()
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert again.config.defaults == pipe.config.defaults
    assert again.config.region == pipe.config.region


def test_a_component_loads_by_itself(smoke_checkpoint):
    by_folder = AutoencoderRPiAE.from_pretrained(smoke_checkpoint / "vae")
    by_subfolder = AutoencoderRPiAE.from_pretrained(smoke_checkpoint, subfolder="vae", torch_dtype=torch.bfloat16)
    assert by_folder.dtype == torch.float32 and by_subfolder.dtype == torch.bfloat16


def test_no_file_of_a_checkpoint_names_this_machine(smoke_checkpoint):
    for file in smoke_checkpoint.rglob("*.json"):
        assert str(smoke_checkpoint.parent) not in file.read_text()
