"""Losses and their adaptive weights."""

import torch
from torch import Tensor, nn


def adaptive_weight(
    reference: Tensor, other: Tensor, parameter: nn.Parameter, eps: float = 1e-4, limit: float = 1e5
) -> Tensor:
    """|grad reference| / (|grad other| + eps) at one parameter, clamped to [0, limit] and detached.

    With the reconstruction loss as reference and the pivot loss as the other this is the authors' balance of the
    pivot loss; with the GAN loss (eps 1e-6, limit 1e4) that of the discriminator (reference facts (a)).
    """
    (wanted,) = torch.autograd.grad(reference, parameter, retain_graph=True)
    (given,) = torch.autograd.grad(other, parameter, retain_graph=True)
    return (wanted.norm() / (given.norm() + eps)).clamp(0.0, limit).detach()
