"""LightningDiT2DModel: what the network is, apart from the authors' weights (those: test_official, test_class_*)."""

import pytest
import torch

from rpiae import LightningDiT2DModel
from rpiae.layers import RMSNorm, rope_table
from rpiae.layers import rotate as rotate_by_table
from rpiae.lightning_dit import rotate
from rpiae.loading import cast

TINY = {
    "in_channels": 8, "sample_size": 4, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "feed_forward_size": 48,
    "num_classes": 10, "time_frequencies": 16,
}  # fmt: skip


def tiny(**changes) -> LightningDiT2DModel:
    """A model in which every part does something."""
    torch.manual_seed(0)
    model = LightningDiT2DModel(**TINY | changes).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    for layer in (model.label_embedding, model.time_embedding[0], model.time_embedding[2]):
        torch.nn.init.normal_(layer.weight, std=0.2)
    return model


def inputs(count: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 8, 4, 4, generator=generator)
    return x, torch.linspace(0.1, 1, count), torch.arange(count)


@torch.no_grad()
def test_velocity_has_the_latents_shape_and_depends_on_everything():
    model, (x, t, y) = tiny(), inputs()
    out = model(x, t, y).sample
    assert out.shape == x.shape and out.dtype == x.dtype
    for changed in (model(x + 0.1, t, y), model(x, t * 0.9, y), model(x, t, y + 1)):
        assert (changed.sample - out).abs().amax((1, 2, 3)).min() > 1e-3
    assert torch.equal(model(x, t, y, return_dict=False)[0], out)


@torch.no_grad()
def test_a_row_does_not_depend_on_its_batch():
    model, (x, t, y) = tiny(), inputs()
    torch.testing.assert_close(model(x[1:2], t[1:2], y[1:2]).sample, model(x, t, y).sample[1:2], atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_one_time_serves_all_rows():
    model, (x, _, y) = tiny(), inputs()
    together = model(x, torch.tensor(0.3), y).sample
    assert torch.equal(model(x, torch.full((3,), 0.3), y).sample, together)
    assert torch.equal(model(x, 0.3, y).sample, together)


@torch.no_grad()
def test_modulations_of_a_whole_schedule_may_be_computed_before():
    model, (x, _, y) = tiny(), inputs()
    times = torch.linspace(1, 0, 5)
    for t, *step in zip(times, *model.modulations(times, y), strict=True):
        torch.testing.assert_close(model(x, t, y, modulation=step).sample, model(x, t, y).sample, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_a_fresh_model_predicts_nothing_and_no_class_is_one_more_row():
    model = LightningDiT2DModel(**TINY).eval()
    x, t, _ = inputs()
    assert not model(x, t, torch.full((3,), 10)).sample.any()
    assert model.label_embedding.weight.shape == (11, 32)
    with pytest.raises(IndexError):
        model(x, t, torch.full((3,), 11))


@torch.no_grad()
def test_patches_of_two_cells():
    model, (x, t, y) = tiny(patch_size=2), inputs()
    assert model.grid == (2, 2) and model(x, t, y).sample.shape == x.shape


def test_positions_turn_as_in_our_other_transformer():
    x = torch.randn(1, 6, 2, 16, generator=torch.Generator().manual_seed(0))
    table = rope_table((2, 3), 16)
    cos, sin = table.repeat_interleave(2, dim=1).unbind(-1)
    torch.testing.assert_close(rotate(x, cos, sin), rotate_by_table(x, table))


def test_time_is_seen_in_float32_by_a_model_in_bfloat16():
    """Angles of tens of radians in bfloat16 would be off by whole tenths, and their frequencies by hundredths."""
    model, times = tiny(), torch.tensor([0.3333, 0.7777, 1.0])
    exact = model._time_features(times)
    assert cast(model, torch.bfloat16).dtype == torch.bfloat16 and model.frequencies.dtype == torch.float32
    torch.testing.assert_close(model._time_features(times).float(), exact, atol=4e-3, rtol=0)


def test_the_norm_is_computed_in_float32():
    x = 100 * torch.randn(4, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = (x.float() * (x.float().square().mean(-1, keepdim=True) + 1e-6).rsqrt()).bfloat16()
    assert torch.equal(RMSNorm(64)(x), expected)


def test_gradients_reach_every_parameter():
    model, (x, t, y) = tiny().train(), inputs()
    model(x, t, y).sample.square().mean().backward()
    without = [name for name, one in model.named_parameters() if one.grad is None or not one.grad.any()]
    assert without == []


@torch.no_grad()
def test_saved_and_loaded_again_is_the_same(tmp_path):
    model, (x, t, y) = tiny(), inputs()
    model.rope_cos.mul_(0.5)  # the tables travel with the weights
    model.save_pretrained(tmp_path)
    assert torch.equal(LightningDiT2DModel.from_pretrained(tmp_path)(x, t, y).sample, model(x, t, y).sample)


def test_what_does_not_fit_is_a_sentence():
    model, (x, t, y) = tiny(), inputs()
    with pytest.raises(ValueError, match=r"must be \(B, 8, 4, 4\), it is \(3, 8, 4, 2\)"):
        model(x[..., :2], t, y)
    with pytest.raises(ValueError, match="3 latents need as many labels"):
        model(x, t, y[:2])
    with pytest.raises(ValueError, match="num_heads=3 does not divide the width 32"):
        tiny(num_heads=3)
    with pytest.raises(ValueError, match="patch size 3 does not divide the latent's 4 rows"):
        tiny(patch_size=3)
