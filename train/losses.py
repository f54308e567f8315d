"""Losses and their adaptive weights, as numbers of the authors' training (reference facts (a), loss details)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rpiae.bridge import Posterior

from .runtime import mean_over_processes


def adaptive_weight(
    reference: Tensor, other: Tensor, parameter: nn.Parameter, eps: float = 1e-4, limit: float = 1e5
) -> Tensor:
    """|grad reference| / (|grad other| + eps) at one parameter, clamped to [0, limit] and detached.

    With the reconstruction loss as reference and the pivot loss as the other this is the authors' balance of the
    pivot loss; with the GAN loss (eps 1e-6, limit 1e4) that of the discriminator (reference facts (a)). A loss that
    does not depend on the parameter makes it 0.
    """
    (wanted,) = torch.autograd.grad(reference, parameter, retain_graph=True, allow_unused=True)
    (given,) = torch.autograd.grad(other, parameter, retain_graph=True, allow_unused=True)
    if wanted is None or given is None:
        return reference.new_zeros(())
    # The gradients of the whole batch, of which this process has a part.
    wanted, given = mean_over_processes(wanted), mean_over_processes(given)
    return (wanted.norm() / (given.norm() + eps)).clamp(0.0, limit).detach()


def pivot_weight(
    reconstruction: Tensor,
    pivot: Tensor,
    parameter: nn.Parameter,
    step: int,
    base: float = 0.75,
    constant_steps: int = 1000,
) -> Tensor:
    """The factor of the pivot loss: `base` for the first steps, then `base` times the adaptive weight.

    Args:
        reconstruction: L1 + perceptual loss, without the pivot term.
        parameter: of the encoder, see `RepresentationEncoder.adaptive_weight_parameter`.
    """
    if step < constant_steps:
        return reconstruction.new_tensor(base)
    return base * adaptive_weight(reconstruction, pivot, parameter)


def gan_weight(reconstruction: Tensor, gan: Tensor, parameter: nn.Parameter) -> Tensor:
    """The adaptive factor of the generator's loss, at the weight of the pixel decoder's head; the authors multiply it
    by 0.75. `reconstruction` is L1 + perceptual loss, without the pivot term."""
    return adaptive_weight(reconstruction, gan, parameter, eps=1e-6, limit=1e4)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of logits."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def generator_loss(fake: Tensor) -> Tensor:
    """The generator's side of the hinge loss (the authors call it "vanilla")."""
    return -fake.mean()


def bridge_losses(decoded: Tensor, features: Tensor, posterior: Posterior) -> dict[str, Tensor]:
    """What the bridge learns from besides pixels.

    Args:
        decoded: feature map as the bridge gives it back, (B, F, h, w).
        features: the clean feature map; no gradient goes into it.
        posterior: the bridge's.
    """
    return {
        "feature_mse": F.mse_loss(decoded.float(), features.detach().float()),
        "kl": posterior.kl().float(),
    }


def noisy_features(features: Tensor, tau: float | Tensor, uniform: Tensor, noise: Tensor) -> Tensor:
    """features + tau * u * noise: each picture has its own strength.

    Args:
        features, noise: (B, F, h, w), noise standard normal.
        uniform: u (B,) in [0, 1).
    """
    return features + (tau * uniform.view(-1, 1, 1, 1) * noise).to(features.dtype)
