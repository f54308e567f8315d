"""Turn a latent so that what a picture shows lies in channels of its own, and loud enough to be decided first.

A latent in the pixels' metric whispers its meaning: nouns are read from it, but under little noise they are gone, so a
diffusion transformer hardly gains by getting them right. Canonical directions (linear discriminants of phrase, colour,
size, style and place in the object) become the last channels of the latent, at unit variance times a gain; the others
stay as they are, on their principal axes. The map is folded into the bridge's two linear layers: no picture changes.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import default_collate

from rpiae.autoencoder import AutoencoderRPiAE
from rpiae.bridge import VariationalBridge
from rpiae.layers import map_to_tokens

from .data.pictures import COLORS, IGNORE, PHRASES, SIZES, ScenePictures

BATCH = 32
STYLES = 2
# Keeps the factorisation safe, as a share of the mean variance of a channel.
RIDGE = 1e-8
# Places count this much against one class, in units of their standard deviation.
OFFSET_WEIGHT = 3.0


@torch.no_grad()
def turn_to_meaning(vae: AutoencoderRPiAE, pictures: ScenePictures, channels: int, gain: float) -> None:
    """Make the last `channels` of the latent those that tell what labelled pictures show, with a standard deviation of
    `gain` over all patches."""
    latents, meanings = _collect(vae, pictures)
    directions = canonical_directions(latents, meanings, channels)
    span = torch.linalg.qr(directions)[0]
    rest = torch.linalg.svd(span.T)[2][channels:].T
    rest = rest @ torch.linalg.eigh(torch.cov((latents @ rest).T))[1].flip(1)
    turn(vae.bridge, torch.cat([rest, gain * directions], dim=1))


def canonical_directions(latents: Tensor, meanings: Tensor, channels: int) -> Tensor:
    """The linear functions of latents (N, C) that meanings (N, M) explain best, most telling first: (C, channels), with
    unit variance each and uncorrelated (canonical correlation analysis, the meanings not whitened)."""
    z, y = latents - latents.mean(0), meanings - meanings.mean(0)
    covariance = z.T @ z / len(z)
    ridge = RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=z.dtype, device=z.device)
    factor = torch.linalg.cholesky(covariance + ridge)
    whitened = torch.linalg.solve_triangular(factor, z.T @ y / len(z), upper=False)
    directions = torch.linalg.svd(whitened)[0][:, :channels]
    return torch.linalg.solve_triangular(factor.T, directions, upper=True)


@torch.no_grad()
def turn(bridge: VariationalBridge, matrix: Tensor) -> None:
    """Latent z becomes z @ matrix (C, C), and the way back begins with the inverse.

    The posterior of turned channels is no longer one of independent channels: its variances become constants, those
    of the old mean variance.
    """
    moments, back, count = bridge.encoder.moments, bridge.decoder.input, bridge.latent_channels
    weight, bias = moments.weight.double(), moments.bias.double()
    variance = bias[count:].exp() @ matrix.square()
    moments.weight.copy_(torch.cat([matrix.T @ weight[:count], torch.zeros_like(weight[count:])]))
    moments.bias.copy_(torch.cat([matrix.T @ bias[:count], variance.log()]))
    back.weight.copy_(back.weight.double() @ torch.linalg.inv(matrix).T)


def _collect(vae: AutoencoderRPiAE, pictures: ScenePictures) -> tuple[Tensor, Tensor]:
    """Latents (N, C) of all patches, and what they show (N, M): a column per class, scaled so that every class counts
    alike however rare, then two for the place; all zero off objects but the phrase."""
    latents, columns = [], []
    for start in range(0, len(pictures), BATCH):
        batch = default_collate([pictures[i] for i in range(start, min(start + BATCH, len(pictures)))])
        shown = batch["image"].to(vae.device).float() / 255
        latents.append(map_to_tokens(vae.encode(shown).latent_dist.mode()).flatten(0, 1).double())
        on_object = (batch["color"].flatten() != IGNORE)[:, None]
        classes = {"phrase": len(PHRASES), "color": 1 + len(COLORS), "size": len(SIZES), "style": STYLES}
        hot = [F.one_hot(batch[name].flatten().clamp_min(0), count) for name, count in classes.items()]
        hot = [hot[0], *(column * on_object for column in hot[1:]), OFFSET_WEIGHT * batch["offset"].flatten(0, 2)]
        columns.append(torch.cat(hot, dim=1).double().to(vae.device))
    meanings = torch.cat(columns)
    deviation = meanings[:, :-2].std(0).clamp_min(1e-2)
    return torch.cat(latents), torch.cat([meanings[:, :-2] / deviation, meanings[:, -2:]], dim=1)
