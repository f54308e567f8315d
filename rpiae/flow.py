"""Rectified flow: the time convention, time sampling, targets and loss. This is the only place that states it.

    x_t = (1 - t) * data + t * noise          t = 1 is noise, t = 0 is data
    velocity = noise - data = dx_t / dt       sampling goes from t = 1 down to t = 0

A network may predict the data x instead (as JiT and RAEv2 do, better when a token has about as many numbers as the
network is wide); its velocity is then (x_t - x) / t, with t kept above MIN_TIME.
"""

import torch
from torch import Tensor

MAX_STEPS = 1000
# Below this time the velocity of a data prediction is not divided any further (RAEv2: 0.05).
MIN_TIME = 0.05


def _like(t: Tensor, x: Tensor) -> Tensor:
    return t.view(-1, *[1] * (x.ndim - 1)).to(x.dtype)


def interpolate(data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t of data and noise (B, ...) at times t (B,) in [0, 1]."""
    t = _like(t, data)
    return (1 - t) * data + t * noise


def velocity(data: Tensor, noise: Tensor) -> Tensor:
    """The target (B, ...)."""
    return noise - data


def velocity_from_data(x_t: Tensor, data: Tensor, t: Tensor) -> Tensor:
    """The velocity that a prediction of the data means, (B, ...)."""
    return (x_t - data) / _like(t, x_t).clamp_min(MIN_TIME)


def data_from_velocity(x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """The data that a velocity points to, (B, ...)."""
    return x_t - _like(t, x_t) * v


def shift_time(t: Tensor, shift: float) -> Tensor:
    """Move times towards noise: s t / (1 + (s - 1) t), s >= 1; larger latents need more (RAE, section on
    dimension-dependent shift; reference facts (a): s = sqrt(C h w / 4096))."""
    if not 0 < shift < float("inf"):
        raise ValueError(f"the time shift must be a positive number, it is {shift}")
    return shift * t / (1 + (shift - 1) * t)


def logit_normal_time(u: Tensor, shift: float = 1.0, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Uniform numbers u in (0, 1) → training times: sigmoid of a normal variate, then shifted (SD3; reference
    conventions, training time)."""
    normal = torch.special.ndtri(u.double().clamp(1e-6, 1 - 1e-6))
    return shift_time(torch.sigmoid(mean + std * normal), shift).to(u.dtype)


def check_steps(steps: int, least: int = 1) -> int:
    """A number of sampling steps as an int; ValueError for what is none."""
    whole = isinstance(steps, (int, float)) and not isinstance(steps, bool) and steps % 1 == 0
    if not whole or not least <= steps <= MAX_STEPS:
        raise ValueError(f"num_inference_steps must be a whole number from {least} to {MAX_STEPS}, it is {steps!r}")
    return int(steps)


def sampling_times(steps: int) -> Tensor:
    """The unshifted grid 1, 1 - 1/n, ..., 1/n; the sampler's last update ends at 0. `FlowMatchEulerDiscreteScheduler`
    takes it as `sigmas` and applies its own shift once."""
    if steps < 1:
        raise ValueError(f"the number of steps must be at least 1, it is {steps}")
    return torch.linspace(1, 1 / steps, steps, dtype=torch.float64)


def official_times(points: int) -> Tensor:
    """The authors' unshifted grid, from 1 to 0.001: `points` times are one update fewer, and none goes to 0 (reference
    conventions, grid)."""
    if points < 2:
        raise ValueError(f"the authors' grid needs at least 2 points, not {points}")
    return 1 - torch.linspace(0, 0.999, points, dtype=torch.float64)
