"""Encoder, bridge and decoder: shapes, closed forms, and what a config means."""

import pytest
import torch

from rpiae.autoencoder import AutoencoderRPiAE
from rpiae.bridge import Posterior, VariationalBridge
from rpiae.encoder import build_encoder, frozen_copy
from rpiae.layers import patchify, rope_table, rotate, unpatchify

VIT = {"kind": "vit", "hidden_size": 32, "num_layers": 2, "num_heads": 2}
DECODER = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 48}
ROPE = DECODER | {"position": "rope", "final_norm": False}


def tiny(**changes) -> AutoencoderRPiAE:
    torch.manual_seed(0)
    settings = {"encoder_config": VIT, "decoder_config": ROPE, "bridge_config": {"latent_channels": 8}}
    return AutoencoderRPiAE(**settings | {"image_size": 64} | changes).eval()


@torch.no_grad()
def test_shapes_from_picture_to_latent_and_back():
    vae, x = tiny(), torch.rand(2, 3, 64, 64)
    assert vae.latent_shape == (8, 4, 4)
    assert vae.encode_features(x).shape == (2, 32, 4, 4)
    latent = vae.encode(x).latent_dist.mode()
    assert latent.shape == (2, 8, 4, 4)
    assert vae.decode(latent).sample.shape == x.shape


@torch.no_grad()
def test_rotary_positions_take_pictures_of_other_sizes():
    assert tiny()(torch.rand(1, 3, 32, 96)).shape == (1, 3, 32, 96)


def test_a_picture_that_patches_do_not_fill_is_refused():
    with pytest.raises(ValueError, match="multiples of 16, this picture is 64 x 60"):
        tiny().encode(torch.rand(1, 3, 64, 60))


@torch.no_grad()
def test_without_a_bridge_the_latent_is_the_feature_map():
    vae, x = tiny(bridge_config=None), torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(vae.encode(x).latent_dist.mode(), vae.encode_features(x))


@torch.no_grad()
def test_normalise_and_denormalise_are_inverse():
    vae = tiny(latents_mean=[0.5] * 8, latents_scale=[2.0] * 7 + [4.0])
    latent = torch.randn(2, 8, 4, 4)
    normal = vae.normalise(latent)
    torch.testing.assert_close(normal[:, :7], (latent[:, :7] - 0.5) * 2)
    torch.testing.assert_close(normal[:, 7], (latent[:, 7] - 0.5) * 4)
    torch.testing.assert_close(vae.denormalise(normal), latent)


@torch.no_grad()
def test_the_table_decoder_has_a_class_token_that_never_shows():
    vae = tiny(decoder_config=DECODER | {"grid": 4})
    assert vae.decoder.position_table.shape == (1, 17, 32)
    assert vae(torch.rand(1, 3, 64, 64)).shape == (1, 3, 64, 64)


def test_bridge_heads_follow_the_authors_rule():
    assert VariationalBridge(768, 64).encoder.attention.num_heads == 8
    assert VariationalBridge(192, 64).encoder.attention.num_heads == 3
    assert VariationalBridge(32, 8).encoder.attention.num_heads == 1


def test_posterior_in_closed_form():
    unit = Posterior(torch.zeros(1, 2, 1, 1), torch.zeros(1, 2, 1, 1))
    assert unit.kl() == 0
    moved = Posterior(torch.full((1, 2, 1, 1), 3.0), torch.zeros(1, 2, 1, 1))
    assert moved.kl() == 9
    wide = Posterior(torch.zeros(1, 1, 100, 100), torch.full((1, 1, 100, 100), 2 * torch.log(torch.tensor(0.5))))
    sample = wide.sample(torch.Generator().manual_seed(0))
    assert sample.std().item() == pytest.approx(0.5, rel=0.02)
    assert torch.equal(wide.mode(), wide.mean)


def test_the_pivot_replica_is_frozen_and_apart():
    encoder = build_encoder(VIT, 64)
    replica = frozen_copy(encoder)
    replica.train()
    assert not any(p.requires_grad for p in replica.parameters())
    assert not any(module.training for module in replica.modules())
    with torch.no_grad():
        encoder.adaptive_weight_parameter().add_(1.0)
    assert not torch.equal(encoder.adaptive_weight_parameter(), replica.adaptive_weight_parameter())


def test_an_unknown_encoder_kind_is_named():
    with pytest.raises(ValueError, match="'resnet' is not known"):
        build_encoder({"kind": "resnet"}, 64)


def test_patch_vectors_are_row_column_channel():
    x = torch.arange(2 * 4 * 4).view(1, 2, 4, 4)
    tokens = patchify(x, 2)
    assert tokens[0, 1].tolist() == [2, 18, 3, 19, 6, 22, 7, 23]
    assert torch.equal(unpatchify(tokens, (2, 2), 2), x)


def test_rotary_products_depend_on_the_difference_of_places_only():
    table = rope_table((6, 6), 16)
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(1, 1, 1, 16, generator=generator), torch.randn(1, 1, 1, 16, generator=generator)
    turned = lambda x: rotate(x.expand(1, 36, 1, 16), table)[0, :, 0].view(6, 6, 16)  # noqa: E731
    q, k = turned(q), turned(k)
    first = (q[1, 2] * k[3, 3]).sum()
    torch.testing.assert_close(first, (q[2, 4] * k[4, 5]).sum(), atol=1e-4, rtol=1e-4)
    assert (first - (q[1, 2] * k[3, 4]).sum()).abs() > 1e-3
