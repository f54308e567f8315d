"""Linear starts are the least-squares solutions that they claim to be."""

import pytest
import torch

from rpiae.bridge import VariationalBridge
from rpiae.decoder import PixelDecoder
from rpiae.encoder import build_encoder
from rpiae.layers import map_to_tokens, patchify
from rpiae.text import TextStates
from rpiae.transformer import RPiAETransformer2DModel
from train.data.pictures import PictureSettings, ScenePictures
from train.linear_start import (
    carry_over,
    collect_pictures,
    least_squares,
    start_bridge,
    start_decoder,
    start_encoder,
)


def test_least_squares_recovers_a_linear_map():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(500, 7), torch.randn(3, 7), torch.randn(3)
    layer = torch.nn.Linear(7, 3)
    with torch.no_grad():
        least_squares(layer, x, x @ weight.T + bias)
    torch.testing.assert_close(layer.weight.data, weight, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(layer.bias.data, bias, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_encoder_and_decoder_start_as_a_principal_component_code():
    """Mean squared error of the whole start against that of PCA with as many numbers, computed apart."""
    torch.manual_seed(0)
    width = 24
    pictures = ScenePictures(0, 99, 64, PictureSettings(crop=64))
    x = collect_pictures(pictures, 64)
    encoder = build_encoder({"kind": "vit", "hidden_size": width, "num_layers": 2, "num_heads": 2}, 256)
    decoder = PixelDecoder(width, 32, 1, 2, 48, position="rope", final_norm=False)
    start_encoder(encoder, pictures)
    start_decoder(decoder, encoder(x), x)
    error = (decoder(encoder(x)) - x).square().mean()

    patches = patchify(encoder.normalise(x), 16).flatten(0, 1).double()
    centred = patches - patches.mean(0)
    basis = torch.linalg.svd(centred, full_matrices=False)[2][:width]
    rest = (centred - centred @ basis.T @ basis).view(-1, 16, 16, 3) * encoder.std.view(3)
    assert error.item() <= 1.05 * rest.square().mean().item()


@torch.no_grad()
def test_the_bridge_starts_as_the_best_linear_code_of_the_features():
    torch.manual_seed(0)
    features = torch.randn(64, 6, 4, 4) * torch.tensor([5.0, 4.0, 3.0, 0.1, 0.1, 0.1]).view(1, 6, 1, 1)
    bridge = VariationalBridge(6, 3, num_heads=1, decoder_layers=1)
    start_bridge(bridge, features, torch.rand(64, 3, 64, 64), pixel_weight=0.0)
    latent = bridge.encode(features).mode()
    assert latent.square().mean().item() == torch.tensor(1.0).item() or abs(latent.square().mean() - 1) < 0.05
    error = map_to_tokens(bridge.decode(latent) - features).square().mean((0, 1))
    assert (error[:3] < 1e-3).all() and (error[3:] < 0.02).all()


HEAD = {"head_layers": 1, "head_size": 16, "head_change_parts": 2}


def transformer(**more) -> RPiAETransformer2DModel:
    """A small one, every part of which has something to do."""
    torch.manual_seed(0)
    model = RPiAETransformer2DModel(
        in_channels=6, sample_size=8, hidden_size=32, num_layers=2, num_heads=2, feed_forward_size=48,
        text_width=10, text_slots=4, **more,
    )  # fmt: skip
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@torch.no_grad()
@pytest.mark.parametrize("head", [{}, HEAD, HEAD | {"prediction": "velocity"}])
def test_a_transformer_is_carried_over_to_a_rotated_latent(head):
    """With permuted, sign-changed channels nothing may be lost: the same prediction, in the new channels."""
    model = transformer(**head)
    theirs = torch.randn(64, 6, 8, 8)
    order, signs = torch.randperm(6), torch.tensor([1.0, -1, 1, -1, -1, 1]).view(1, 6, 1, 1)
    x, source, t = torch.randn(3, 6, 8, 8), torch.randn(3, 6, 8, 8), torch.tensor([0.2, 0.5, 0.9])
    text = TextStates(torch.randn(3, 4, 10), torch.ones(3, 4, dtype=torch.bool))
    before = model(x, t, text=text, source=source)
    carry_over(model, theirs, theirs[:, order] * signs)
    after = model(x[:, order] * signs, t, text=text, source=source[:, order] * signs)
    torch.testing.assert_close(after.sample, before.sample[:, order] * signs, atol=2e-3, rtol=1e-3)
    if head:  # where an edit changes the picture has no channels
        torch.testing.assert_close(after.changes, before.changes, atol=2e-3, rtol=1e-3)


@torch.no_grad()
def test_a_constant_between_latents_is_added_once():
    """What trunk and head write is summed up."""
    model, theirs = transformer(**HEAD), torch.randn(64, 6, 8, 8)
    of_trunk, of_head = model.output.bias.clone(), model.head.output.bias.clone()
    carry_over(model, theirs, theirs + 3)
    values = len(of_trunk) // 2
    torch.testing.assert_close(model.output.bias[:values], of_trunk[:values] + 3, atol=1e-2, rtol=0)
    torch.testing.assert_close(model.output.bias[values:], of_trunk[values:], atol=1e-2, rtol=0)
    torch.testing.assert_close(model.head.output.bias, of_head, atol=1e-2, rtol=0)
