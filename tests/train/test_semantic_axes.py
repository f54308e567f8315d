"""Turning a latent changes no picture, and puts what is shown where it says."""

import torch
from torch.nn import functional as F

from rpiae.autoencoder import AutoencoderRPiAE
from rpiae.bridge import VariationalBridge
from rpiae.layers import map_to_tokens
from train.config import load_config
from train.data.pictures import PictureSettings, ScenePictures
from train.semantic_axes import canonical_directions, turn, turn_to_meaning


@torch.no_grad()
def test_a_turned_bridge_gives_turned_latents_and_the_same_features():
    torch.manual_seed(0)
    bridge = VariationalBridge(6, 3, num_heads=1, decoder_layers=1)
    features, matrix = torch.randn(2, 6, 4, 4), torch.randn(3, 3).double() + 2 * torch.eye(3).double()
    before = bridge.encode(features).mode()
    decoded = bridge.decode(before)
    turn(bridge, matrix)
    after = bridge.encode(features).mode()
    torch.testing.assert_close(map_to_tokens(after), map_to_tokens(before) @ matrix.float(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(bridge.decode(after), decoded, atol=1e-4, rtol=1e-4)


def test_canonical_directions_find_the_quiet_signal_beside_loud_noise():
    torch.manual_seed(0)
    classes = torch.randint(0, 3, (5000,))
    meanings = F.one_hot(classes).double()
    quiet = 0.1 * meanings[:, :2] + 0.01 * torch.randn(5000, 2).double()
    rotation = torch.linalg.qr(torch.randn(5, 5).double())[0]
    mixed = torch.cat([5 * torch.randn(5000, 3).double(), quiet], dim=1) @ rotation
    directions = canonical_directions(mixed, meanings, 2)
    found = (mixed - mixed.mean(0)) @ directions
    torch.testing.assert_close(torch.cov(found.T), torch.eye(2).double(), atol=0.01, rtol=0)
    within = sum(found[classes == k].var(0) * (classes == k).double().mean() for k in range(3))
    assert (within < 0.1).all()  # of a variance of 1: the rest is between the classes


def test_turning_an_autoencoder_changes_no_picture_and_sets_the_gain():
    torch.manual_seed(0)
    models = load_config("smoke").models
    vae = AutoencoderRPiAE(models.encoder, models.decoder, models.bridge, models.image_size).eval()
    pictures = ScenePictures(0, 99, 24, PictureSettings(labels=True))
    x = pictures[0]["image"][None].float() / 255
    before = vae(x).detach()
    turn_to_meaning(vae, pictures, channels=2, gain=3.0)
    torch.testing.assert_close(vae(x).detach(), before, atol=1e-3, rtol=1e-3)
    shown = torch.stack([pictures[i]["image"] for i in range(len(pictures))]).float() / 255
    latents = vae.encode(shown).latent_dist.mode()
    deviation = latents.std((0, 2, 3))[-2:]
    torch.testing.assert_close(deviation, torch.full((2,), 3.0), atol=0.01, rtol=0)
