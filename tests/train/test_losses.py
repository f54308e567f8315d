"""Losses, adaptive weights and learning rates against the numbers that the authors' trainer computed."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from rpiae import AutoencoderRPiAE
from rpiae.encoder import build_encoder, frozen_copy
from rpiae.layers import tokens_to_map
from tests.train.paper import official_rate
from train.config import AutoencoderStage
from train.losses import (
    adaptive_weight,
    bridge_losses,
    discriminator_loss,
    gan_weight,
    generator_loss,
    noisy_features,
    pivot_weight,
)
from train.tasks import autoencoder
from train.tasks.autoencoder import AutoencoderTask

GOLDEN = Path(__file__).resolve().parents[1] / "fixtures" / "golden"
FILES = json.loads((GOLDEN / "manifest.json").read_text())["files"]
STAGE_1, STAGE_2 = "stage1.safetensors", "stage2_losses.safetensors"
NOISE = {"train_noise_u", "train_noise_eps"}
AFTER_WARM_UP = 1000


def names(file: str) -> list[str]:
    return [name for name in FILES[file]["tensors"] if name not in NOISE]


def noise(given: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """u (B,) and the normal noise as a map."""
    return given["train_noise_u"].flatten(), tokens_to_map(given["train_noise_eps"], (4, 4))


def stage_1(part: str) -> AutoencoderRPiAE:
    path = GOLDEN / "stage1_ep-0000016.pt"
    return AutoencoderRPiAE.from_official(path, 2, 3, bridge=False, pivot_replica=part == "replica")


@pytest.fixture(scope="module")
def first(golden) -> dict[str, torch.Tensor]:
    """Stage 1; the reconstruction loss is plain L1 here."""
    given, images = golden.tensors(STAGE_1), golden.tensors("tokenizer.safetensors")["images"]
    vae = stage_1("student")
    with torch.no_grad():
        pivot_map = stage_1("replica").encode_features(images)
    parameter = vae.encoder.adaptive_weight_parameter("layer_scale")
    student_map = vae.encode_features(images)
    reconstruction = vae.decode(student_map).sample
    l1, pivot = F.l1_loss(reconstruction, images), F.mse_loss(student_map, pivot_map)
    weight = pivot_weight(l1, pivot, parameter, AFTER_WARM_UP)
    ramp = torch.linspace(-1, 1, reconstruction.numel()).view_as(reconstruction)
    gan_like = generator_loss(reconstruction * ramp)
    noisy = noisy_features(student_map, 0.8, *noise(given))
    found = {
        "student_map": student_map,
        "pivot_map": pivot_map,
        "reconstruction": reconstruction,
        "pivot_loss": pivot,
        "l1": l1,
        "adaptive_grad_l1": torch.autograd.grad(l1, parameter, retain_graph=True)[0],
        "adaptive_grad_pivot": torch.autograd.grad(pivot, parameter, retain_graph=True)[0],
        "adaptive_pivot_weight": weight,
        "total_loss": l1 + weight * pivot,
        "gan_like_loss": gan_like,
        "adaptive_gan_weight": gan_weight(l1, gan_like, vae.decoder.head.weight),
        "train_reconstruction_first": vae.decode(noisy).sample[:1],
        "weight with mlp": pivot_weight(l1, pivot, vae.encoder.adaptive_weight_parameter(), AFTER_WARM_UP),
    }
    return {name: tensor.detach() for name, tensor in found.items()}


@pytest.mark.parametrize("name", names(STAGE_1))
def test_stage_1_gives_the_authors_numbers(name, golden, first):
    golden.check(STAGE_1, name, first[name])


def test_both_parameters_give_the_authors_pivot_weight(golden, first):
    facts = golden.facts["pivot_layer"]
    assert float(first["adaptive_pivot_weight"]) == pytest.approx(facts["weight_with_it"], rel=1e-4)
    with_mlp = facts["weight_if_last_mlp_fc2_weight_were_used"]
    assert float(first["weight with mlp"]) == pytest.approx(with_mlp, rel=1e-4)


@pytest.fixture(scope="module")
@torch.no_grad()
def second(golden) -> dict[str, torch.Tensor]:
    """Stage 2: noise goes into the bridge, the wanted features stay clean, the mode is decoded."""
    given, images = golden.tensors(STAGE_2), golden.tensors("tokenizer.safetensors")["images"]
    weights = golden.config["stage2_loss_weights"]
    vae = AutoencoderRPiAE.from_official(GOLDEN / "rpiae_stage3_1_c8_ema.pt", 3, 4)
    clean = vae.encode_features(images)
    found = {}
    for mode, features in (("eval", clean), ("train", noisy_features(clean, 0.8, *noise(given)))):
        posterior = vae.bridge.encode(features)
        decoded = vae.bridge.decode(posterior.mode())
        losses = bridge_losses(decoded, clean, posterior)
        l1 = F.l1_loss(vae.decoder(decoded), images)
        total = weights["feat"] * losses["feature_mse"] + weights["kl"] * losses["kl"] + weights["rec"] * l1
        found |= {f"{mode}_{name}": loss for name, loss in (losses | {"l1": l1, "total": total}).items()}
        found |= {f"{mode}_posterior_mean": posterior.mean, f"{mode}_decoded_feature_map": decoded}
    return found


@pytest.mark.parametrize("name", names(STAGE_2))
def test_stage_2_gives_the_authors_numbers(name, golden, second):
    golden.check(STAGE_2, name, second[name])


# --- the same numbers from the task that trains --------------------------------------------------------------------


def task(vae: AutoencoderRPiAE, **settings) -> AutoencoderTask:
    """A task of the authors' losses, in training; LPIPS and GAN have no golden numbers."""
    common = {"task": "autoencoder", "samples": 4, "batch_size": 2, "optimizer": {"lr": 2e-4}}
    return AutoencoderTask(vae, AutoencoderStage.model_validate(common | settings), seed=0).train()


def first_task(**settings) -> AutoencoderTask:
    stage = {"trains": ["encoder", "decoder"], "pivot": 0.75, "pivot_parameter": "layer_scale"}
    found = task(stage_1("student"), **stage, **settings)
    found.pivot_replica = frozen_copy(stage_1("replica").encoder)
    return found


def batch(images: torch.Tensor) -> dict[str, torch.Tensor]:
    """As the loader gives it, but not rounded to 8 bits."""
    return {"image": images * 255, "index": torch.arange(len(images))}


@pytest.fixture
def golden_noise(monkeypatch):
    """The tasks' noise is the authors' from now on; its strength is the task's own."""

    def use(uniform: torch.Tensor, noise: torch.Tensor) -> None:
        monkeypatch.setattr(
            autoencoder, "noisy_features", lambda values, tau, *_: noisy_features(values, tau, uniform, noise)
        )

    return use


def test_the_task_of_stage_1_gives_the_authors_numbers(golden):
    losses = first_task()(batch(golden.tensors("tokenizer.safetensors")["images"]))
    theirs = {"l1": "l1", "pivot": "pivot_loss", "pivot_weight": "adaptive_pivot_weight", "loss": "total_loss"}
    assert losses.keys() == theirs.keys()
    for ours, name in theirs.items():
        golden.check(STAGE_1, name, losses[ours].detach())


@torch.no_grad()
def test_the_task_of_stage_1_decodes_noisy_features_and_holds_clean_ones(golden, golden_noise):
    """Of the first picture: of the others there is no noisy reconstruction."""
    given, images = golden.tensors(STAGE_1), golden.tensors("tokenizer.safetensors")["images"][:1]
    uniform, eps = noise(given)
    golden_noise(uniform[:1], eps[:1])
    losses = first_task(noise_tau=0.8)(batch(images))
    l1 = F.l1_loss(given["train_reconstruction_first"], images)
    pivot = F.mse_loss(given["student_map"][:1], given["pivot_map"][:1])
    assert float(losses["l1"]) == pytest.approx(float(l1), abs=1e-4)
    assert float(losses["pivot"]) == pytest.approx(float(pivot), abs=2.9e-5)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_task_of_stage_2_gives_the_authors_numbers(mode, golden, golden_noise):
    weights = golden.config["stage2_loss_weights"]
    weights = {"feature_mse": weights["feat"], "kl": weights["kl"], "l1": weights["rec"]}
    vae = AutoencoderRPiAE.from_official(GOLDEN / "rpiae_stage3_1_c8_ema.pt", 3, 4)
    golden_noise(*noise(golden.tensors(STAGE_2)))
    found = task(vae, trains=["bridge"], noise_tau=0.8, **weights).train(mode == "train")
    losses = found(batch(golden.tensors("tokenizer.safetensors")["images"]))
    assert losses.keys() == {*weights, "loss"}
    for ours, name in {**{name: name for name in weights}, "loss": "total"}.items():
        golden.check(STAGE_2, f"{mode}_{name}", losses[ours])


def test_no_gradient_goes_into_the_wanted_features():
    features = torch.randn(1, 4, 2, 2, requires_grad=True)
    decoded = torch.randn(1, 4, 2, 2, requires_grad=True)
    losses = bridge_losses(decoded, features, _unit_posterior())
    losses["feature_mse"].backward()
    assert features.grad is None and decoded.grad.any()


def _unit_posterior():
    from rpiae.bridge import Posterior

    return Posterior(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2))


# --- adaptive weights in closed form -------------------------------------------------------------------------------


def parameter() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor([3.0, 4.0]))


def test_the_adaptive_weight_is_the_ratio_of_gradient_norms():
    w = parameter()
    weight = adaptive_weight(2 * w.sum(), w.square().sum() / 2, w, eps=0.0)
    assert weight.item() == pytest.approx(2 * 2**0.5 / 5) and not weight.requires_grad
    assert adaptive_weight(2 * w.sum(), w.square().sum() / 2, w, limit=0.1).item() == pytest.approx(0.1)
    assert adaptive_weight(w.sum(), 0 * w.sum(), w, eps=1e-4, limit=1e9).item() == pytest.approx(2**0.5 * 1e4, rel=1e-5)


def test_a_loss_without_the_parameter_counts_nothing():
    w, other = parameter(), parameter()
    assert adaptive_weight(w.sum(), other.sum(), w).item() == 0
    assert adaptive_weight(other.sum(), w.sum(), w).item() == 0


def test_the_pivot_weight_is_constant_at_first_then_adaptive():
    w = parameter()
    assert pivot_weight(w.sum(), w.sum() * 2, w, step=999).item() == 0.75
    assert pivot_weight(w.sum(), w.sum() * 2, w, step=1000).item() == pytest.approx(0.375, rel=1e-3)
    # Clamped first, then times the base.
    assert pivot_weight(1e9 * w.sum(), w.sum(), w, step=1000).item() == pytest.approx(0.75e5)


def test_the_gan_losses_are_the_authors_example(golden):
    example = golden.facts["gan"]["example"]
    real, fake = torch.tensor(example["logits_real"]), torch.tensor(example["logits_fake"])
    assert discriminator_loss(real, fake).item() == pytest.approx(example["hinge_d"], abs=1e-6)
    assert generator_loss(fake).item() == pytest.approx(example["vanilla_g"], abs=1e-6)


def test_a_compact_encoder_has_no_layer_scale():
    encoder = build_encoder({"kind": "vit", "hidden_size": 32, "num_layers": 1, "num_heads": 2}, 64)
    assert encoder.adaptive_weight_parameter() is encoder.model.blocks[-1].mlp.fc2.weight
    with pytest.raises(ValueError, match="CompactEncoder has no parameter 'layer_scale'; use one of mlp"):
        encoder.adaptive_weight_parameter("layer_scale")


# --- learning rates ------------------------------------------------------------------------------------------------

RATES = {
    "tokenizer": {"decay": (1, 16), "shape": "cosine", "warmup_epochs": 1},
    "dit": {"decay": (40, 800), "shape": "linear"},
}


@pytest.mark.parametrize("name", RATES)
def test_the_learning_rate_is_the_authors_at_every_listed_step(name, golden):
    facts = golden.facts["lr_schedule"]
    listed = facts[name]["lr_used_at_step"]
    ours = {step: official_rate(int(step), facts["steps_per_epoch"], **RATES[name]) for step in listed}
    assert ours == pytest.approx(listed, rel=facts["tolerance_rel"])
