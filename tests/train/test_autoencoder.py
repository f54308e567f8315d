"""Noise on the latent reaches the pixel decoder in training only, and belongs to seed, picture and purpose."""

import pytest
import torch

from rpiae.autoencoder import AutoencoderRPiAE
from rpiae.bridge import Posterior
from train.config import load_config
from train.tasks import autoencoder
from train.tasks.autoencoder import ON_FEATURES, ON_LATENT, AutoencoderTask


@pytest.fixture(scope="module")
def task():
    torch.manual_seed(0)
    config = load_config("smoke")
    models = config.models
    vae = AutoencoderRPiAE(models.encoder, models.decoder, models.bridge, models.image_size)
    return AutoencoderTask(vae, config.stages["decoder"].model_copy(update={"perceptual": 0.0}), seed=0)


@torch.no_grad()
def test_latent_noise_is_there_in_training_only(task):
    batch = torch.utils.data.default_collate([task.dataset[i] for i in range(2)])
    again = torch.utils.data.default_collate([task.dataset[i] for i in (1, 0)])
    noisy, swapped = (task.train()(one)["l1"] for one in (batch, again))
    clean = task.eval()(batch)["l1"]
    torch.testing.assert_close(noisy, swapped, atol=1e-6, rtol=1e-6)
    assert abs(noisy - clean) > 1e-4


@torch.no_grad()
def test_latent_noise_is_in_units_of_the_normalised_latent(task):
    vae = task.vae.eval()
    vae.register_to_config(latents_mean=[1.0] * 8, latents_scale=[0.25] * 8)
    latent = torch.zeros(64, 8, 16, 16)
    moved = vae.denormalise(task.train()._noisy(latent, 0.5, torch.arange(64), ON_LATENT)) - vae.denormalise(latent)
    strengths = moved.std(dim=(1, 2, 3)) * 0.25  # u * 0.5 with u uniform
    assert strengths.max() < 0.51 and 0.2 < strengths.mean() < 0.3


@torch.no_grad()
def test_noise_of_another_seed_or_purpose_is_another(task, monkeypatch):
    """So are its strengths: what is strong on features would else be strong on the latent, too."""
    uniform = []
    monkeypatch.setattr(autoencoder, "noisy_features", lambda values, tau, u, noise: uniform.append(u) or noise)
    values, index = torch.zeros(64, 8, 4, 4), torch.arange(64)
    posterior = Posterior(torch.zeros(64, 8, 4, 4), torch.zeros(64, 8, 4, 4))
    sampling = task.stage.model_copy(update={"posterior": "sample"})
    drawn = []
    for seed in (0, 1, 2):
        monkeypatch.setattr(task, "seed", seed)
        drawn += [task.train()._noisy(values, 1.0, index, purpose) for purpose in (ON_FEATURES, ON_LATENT)]
        with monkeypatch.context() as patch:
            patch.setattr(task, "stage", sampling)
            drawn.append(task._latent(posterior, index))
    for draws in (drawn, uniform):
        related = torch.corrcoef(torch.stack([one.flatten() for one in draws])) - torch.eye(len(draws))
        assert related.abs().max() < 5 / draws[0].numel() ** 0.5
