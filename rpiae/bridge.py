"""The variational bridge: feature map (encoder space) ↔ latent (bridge space).

Encoder: one attention layer with a linear skip, a small MLP, then mean and log-variance. Decoder: a few pre-norm
transformer layers. Neither has position embeddings: the feature map already knows where it is.
(RPiAE paper, variational bridge; sizes and layer order from reference facts (a).)
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .layers import FeedForward, SelfAttention, TransformerBlock, map_to_tokens, tokens_to_map

NORM_EPS = 1e-5


@dataclass(frozen=True)
class Posterior:
    """A diagonal Gaussian over latents; mean and log-variance are (B, C, h, w)."""

    mean: Tensor
    logvar: Tensor

    @classmethod
    def from_moments(cls, moments: Tensor) -> "Posterior":
        """Of (B, 2C, h, w): means, then log-variances, which are clamped to [-30, 20]."""
        mean, logvar = moments.chunk(2, dim=1)
        return cls(mean, logvar.clamp(-30, 20))

    def mode(self) -> Tensor:
        return self.mean

    def sample(self, generator: torch.Generator | None = None, noise: Tensor | None = None) -> Tensor:
        """A draw; `noise` is standard normal of the mean's shape, instead of drawing it."""
        if noise is None:
            device = generator.device if generator is not None else self.mean.device
            noise = torch.randn(self.mean.shape, generator=generator, device=device, dtype=self.mean.dtype)
        return self.mean + torch.exp(0.5 * self.logvar) * noise.to(self.mean.device)

    def kl(self) -> Tensor:
        """Divergence from the unit Gaussian, averaged over all elements and without the usual factor 1/2
        (reference facts (a), KL number)."""
        return (self.mean.square() + self.logvar.exp() - 1 - self.logvar).mean()


class BridgeEncoder(nn.Module):
    def __init__(self, feature_channels: int, latent_channels: int, num_heads: int, mlp_ratio: float):
        super().__init__()
        hidden = int(feature_channels * mlp_ratio)
        self.norm1 = nn.LayerNorm(feature_channels, eps=NORM_EPS)
        self.attention = SelfAttention(feature_channels, num_heads)
        self.skip = nn.Linear(feature_channels, feature_channels)
        self.norm2 = nn.LayerNorm(feature_channels, eps=NORM_EPS)
        self.feed_forward = FeedForward(feature_channels, hidden)
        self.moments = nn.Linear(feature_channels, 2 * latent_channels)
        nn.init.zeros_(self.feed_forward[-1].weight)
        nn.init.zeros_(self.feed_forward[-1].bias)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.skip(tokens) + self.attention(self.norm1(tokens))
        tokens = tokens + self.feed_forward(self.norm2(tokens))
        return self.moments(tokens)


class BridgeDecoder(nn.Module):
    def __init__(
        self, feature_channels: int, latent_channels: int, num_heads: int, mlp_ratio: float, num_layers: int
    ):
        super().__init__()
        hidden = int(feature_channels * mlp_ratio)
        self.input = nn.Linear(latent_channels, feature_channels)
        self.blocks = nn.ModuleList(
            TransformerBlock(feature_channels, num_heads, hidden, NORM_EPS) for _ in range(num_layers)
        )
        self.output = nn.Linear(feature_channels, feature_channels)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.input(tokens)
        for block in self.blocks:
            tokens = block(tokens)
        return self.output(tokens)


class VariationalBridge(nn.Module):
    """Feature map (B, F, h, w) → Posterior over (B, C, h, w) → feature map (B, F, h, w).

    Args:
        feature_channels: F, channels of the representation encoder's feature map.
        latent_channels: C, channels of the latent.
        num_heads: None is the authors' rule min(8, max(1, F // 64)).
        decoder_layers: transformer layers on the way back.
    """

    def __init__(
        self,
        feature_channels: int,
        latent_channels: int,
        num_heads: int | None = None,
        decoder_layers: int = 6,
        encoder_mlp_ratio: float = 1.0,
        decoder_mlp_ratio: float = 4.0,
    ):
        super().__init__()
        heads = num_heads or min(8, max(1, feature_channels // 64))
        self.latent_channels = latent_channels
        self.encoder = BridgeEncoder(feature_channels, latent_channels, heads, encoder_mlp_ratio)
        self.decoder = BridgeDecoder(
            feature_channels, latent_channels, heads, decoder_mlp_ratio, decoder_layers
        )

    def encode(self, feature_map: Tensor) -> Posterior:
        grid = feature_map.shape[-2:]
        return Posterior.from_moments(tokens_to_map(self.encoder(map_to_tokens(feature_map)), grid))

    def decode(self, latent: Tensor) -> Tensor:
        return tokens_to_map(self.decoder(map_to_tokens(latent)), latent.shape[-2:])
