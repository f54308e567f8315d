"""The time convention, and the algebra between data, noise and velocity."""

import pytest
import torch

from rpiae import flow


def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 3, 4, 4, generator=generator), torch.randn(5, 3, 4, 4, generator=generator)


def test_time_one_is_noise_and_time_zero_is_data():
    data, noise = pair()
    assert torch.equal(flow.interpolate(data, noise, torch.zeros(5)), data)
    assert torch.equal(flow.interpolate(data, noise, torch.ones(5)), noise)


def test_velocity_is_the_derivative_and_points_from_data_to_noise():
    data, noise = pair()
    t, dt = torch.full((5,), 0.4, dtype=torch.float64), 1e-6
    data, noise = data.double(), noise.double()
    slope = (flow.interpolate(data, noise, t + dt) - flow.interpolate(data, noise, t)) / dt
    torch.testing.assert_close(slope, flow.velocity(data, noise), atol=1e-8, rtol=1e-6)


def test_data_and_velocity_predictions_say_the_same_above_the_least_time():
    data, noise = pair()
    t = torch.tensor([flow.MIN_TIME, 0.2, 0.5, 0.9, 1.0])
    x_t = flow.interpolate(data, noise, t)
    torch.testing.assert_close(flow.velocity_from_data(x_t, data, t), noise - data, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(flow.data_from_velocity(x_t, noise - data, t), data, atol=1e-5, rtol=1e-4)


def test_below_the_least_time_the_division_stops():
    x_t, data = torch.full((1, 1), 0.01), torch.zeros(1, 1)
    assert flow.velocity_from_data(x_t, data, torch.tensor([0.001])).item() == pytest.approx(0.01 / flow.MIN_TIME)


def test_shift_keeps_the_ends_and_moves_the_middle_to_noise():
    t = torch.tensor([0.0, 0.5, 1.0])
    assert flow.shift_time(t, 2.0).tolist() == pytest.approx([0.0, 2 / 3, 1.0])
    assert torch.equal(flow.shift_time(t, 1.0), t)
    with pytest.raises(ValueError, match="positive"):
        flow.shift_time(t, 0.0)


def test_logit_normal_times_have_the_closed_form_median_and_spread():
    u = (torch.arange(10001) + 0.5) / 10001
    t = flow.logit_normal_time(u, shift=1.0, mean=0.3, std=0.8)
    assert t.median().item() == pytest.approx(torch.sigmoid(torch.tensor(0.3)).item(), abs=1e-4)
    assert torch.logit(t.double()).std().item() == pytest.approx(0.8, abs=0.01)
    assert (t.diff() > 0).all() and t.min() > 0 and t.max() < 1


def test_sampling_times_end_one_step_before_zero():
    assert flow.sampling_times(4).tolist() == [1.0, 0.75, 0.5, 0.25]
    with pytest.raises(ValueError, match="at least 1"):
        flow.sampling_times(0)
