"""Noise on the latent reaches the pixel decoder in training only, and belongs to the picture's number."""

import pytest
import torch

from rpiae.autoencoder import AutoencoderRPiAE
from train.config import load_config
from train.tasks.autoencoder import AutoencoderTask


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
    moved = vae.denormalise(task.train()._noisy(latent, 0.5, torch.arange(64))) - vae.denormalise(latent)
    strengths = moved.std(dim=(1, 2, 3)) * 0.25  # u * 0.5 with u uniform
    assert strengths.max() < 0.51 and 0.2 < strengths.mean() < 0.3
