"""FAE (f16, 32 channels): the features of a frozen DINOv2-g/14, narrowed by a single attention layer and widened again
by a small transformer, then a ViT-L pixel decoder (arXiv 2512.07829).

    picture → representation encoder → features → latent → features → pixel decoder → picture

Its authors published neither code nor weights, so there is only what was trained here: a folder, or "random". Sizes are
the paper's; where it is silent, those are taken that give its parameter counts to the last digit: 38.17 M, 170.43 M and
305.36 M. Not known: whether its DINOv2 has registers (here it has none).
"""

import os

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..attention import AttentionChoice, attention
from ..bridge import Posterior
from ..encoder import IMAGENET_MEAN, IMAGENET_STD, build_encoder
from ..layers import RMSNorm, SelfAttention, SwiGLU, map_to_tokens, rope_table, tokens_to_map, unpatchify
from ..loading import StrictLoading, resolve, source_name
from .base import RANDOM, OwnTokenizer, with_random_weights
from .published import Published
from .rpiae import licence

# Of the paper's FAE-32: arguments of AutoencoderFAE.
ARCHITECTURE = {
    "encoder_config": {
        "kind": "dinov2",
        "input_size": 224,
        "output_grid": 16,
        "patch_size": 14,
        "hidden_size": 1536,
        "num_hidden_layers": 40,
        "num_attention_heads": 24,
        "use_swiglu_ffn": True,
        "num_register_tokens": 0,
    },
    "latent_channels": 32,
    "bottleneck_config": {"num_heads": 24, "head_width": 256},
    "feature_decoder_config": {"num_layers": 6, "num_heads": 24, "hidden_size": 4096},
    "decoder_config": {"width": 1024, "num_layers": 24, "num_heads": 16, "hidden_size": 2736, "patch_size": 16},
}
PUBLISHED = Published("fae-d32", "", "config.json", licence="", latent_shape=(32, 16, 16), downsampling=16)


class Bottleneck(nn.Module):
    """Features (B, N, F) → moments (B, N, 2C): attention with heads wider than usual, added to a linear skip of their
    width; its output projection and the one to the moments are one."""

    def __init__(self, feature_channels: int, latent_channels: int, num_heads: int, head_width: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv_and_skip = nn.Linear(feature_channels, 4 * num_heads * head_width)
        self.moments = nn.Linear(num_heads * head_width, 2 * latent_channels)

    def forward(self, tokens: Tensor) -> Tensor:
        four = self.qkv_and_skip(tokens)
        q, k, v, skip = rearrange(four, "b n (four l k) -> four b n l k", four=4, l=self.num_heads)
        return self.moments(F.gelu(rearrange(skip + attention(q, k, v), "b n l k -> b n (l k)")))


class Block(nn.Module):
    """Pre-norm attention and SwiGLU."""

    def __init__(self, width: int, num_heads: int, hidden: int, norm: type[nn.Module]):
        super().__init__()
        self.norm1 = norm(width)
        self.attention = SelfAttention(width, num_heads)
        self.norm2 = norm(width)
        self.feed_forward = SwiGLU(width, hidden)

    def forward(self, x: Tensor, rope: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norm1(x), rope)
        return x + self.feed_forward(self.norm2(x))


class FeatureDecoder(nn.Module):
    """Latent tokens (B, N, C) → features (B, N, F), with learned and rotary positions."""

    def __init__(
        self, feature_channels: int, latent_channels: int, grid: int, num_layers: int, num_heads: int, hidden_size: int
    ):
        super().__init__()
        self.grid, self.head_width = (grid, grid), feature_channels // num_heads
        self.input = nn.Linear(latent_channels, feature_channels)
        self.position_table = nn.Parameter(torch.randn(1, grid * grid, feature_channels) * 0.02)
        self.blocks = nn.ModuleList(Block(feature_channels, num_heads, hidden_size, RMSNorm) for _ in range(num_layers))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.input(tokens) + self.position_table
        rope = rope_table(self.grid, self.head_width, device=tokens.device)
        for block in self.blocks:
            tokens = block(tokens, rope)
        return tokens


class FAEPixelDecoder(nn.Module):
    """Features (B, F, h, w) → pictures (B, 3, h*p, w*p), about [0, 1]."""

    def __init__(
        self,
        feature_channels: int,
        grid: int,
        width: int,
        num_layers: int,
        num_heads: int,
        hidden_size: int,
        patch_size: int,
    ):
        super().__init__()
        self.patch_size = patch_size
        self.input = nn.Linear(feature_channels, width)
        self.position_table = nn.Parameter(torch.randn(1, grid * grid, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, num_heads, hidden_size, nn.LayerNorm) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 3 * patch_size * patch_size)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, feature_map: Tensor) -> Tensor:
        tokens = self.input(map_to_tokens(feature_map)) + self.position_table
        for block in self.blocks:
            tokens = block(tokens)
        patches = self.head(self.norm(tokens))
        return unpatchify(patches, tuple(feature_map.shape[-2:]), self.patch_size) * self.std + self.mean


class AutoencoderFAE(AttentionChoice, StrictLoading, ModelMixin, ConfigMixin):
    """FAE for square pictures of one size.

    Args:
        encoder_config: for `rpiae.encoder.build_encoder`; the encoder stays frozen.
        bottleneck_config, feature_decoder_config, decoder_config: arguments of `Bottleneck`, `FeatureDecoder` and
            `FAEPixelDecoder`, without the channels and the grid, which follow.
    """

    @register_to_config
    def __init__(
        self,
        encoder_config: dict,
        latent_channels: int,
        bottleneck_config: dict,
        feature_decoder_config: dict,
        decoder_config: dict,
        image_size: int = 256,
    ):
        super().__init__()
        self.encoder = build_encoder(encoder_config, image_size).requires_grad_(False)
        channels, grid = self.encoder.feature_channels, image_size // self.encoder.downsampling
        self.bottleneck = Bottleneck(channels, latent_channels, **bottleneck_config)
        self.feature_decoder = FeatureDecoder(channels, latent_channels, grid, **feature_decoder_config)
        self.decoder = FAEPixelDecoder(channels, grid, **decoder_config)
        self.latent_shape = (latent_channels, grid, grid)

    def encode_features(self, x: Tensor) -> Tensor:
        """Picture (B, 3, H, W) in [0, 1] → the representation encoder's feature map (B, F, h, w)."""
        return self.encoder(x)

    def narrow(self, feature_map: Tensor) -> Posterior:
        """Feature map → a posterior over latents (B, C, h, w)."""
        return Posterior.from_moments(self._through(self.bottleneck, feature_map))

    def widen(self, z: Tensor) -> Tensor:
        """Latent → feature map."""
        return self._through(self.feature_decoder, z)

    @apply_forward_hook
    def encode(self, x: Tensor) -> AutoencoderKLOutput:
        """Picture → `.latent_dist`, a Posterior."""
        return AutoencoderKLOutput(latent_dist=self.narrow(self.encode_features(x)))

    @apply_forward_hook
    def decode(self, z: Tensor) -> DecoderOutput:
        """Latent → `.sample`, (B, 3, H, W), about [0, 1], not clamped."""
        return DecoderOutput(sample=self.decoder(self.widen(z)))

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x).latent_dist.mode()).sample

    @staticmethod
    def _through(network: nn.Module, feature_map: Tensor) -> Tensor:
        return tokens_to_map(network(map_to_tokens(feature_map)), tuple(feature_map.shape[-2:]))


def find():
    """The config in assets/tokenizers/fae-d32, where a trained one was put there."""
    return PUBLISHED.find()


def build() -> AutoencoderFAE:
    return AutoencoderFAE(**ARCHITECTURE)


def load(source: str | os.PathLike | None = None) -> OwnTokenizer:
    """From a folder that `AutoencoderFAE.save_pretrained` wrote, of any size, "hf:org/name", "random" (of the paper's
    sizes) or, without a source, assets/tokenizers/fae-d32. Raises ValueError."""
    if source == RANDOM:
        return OwnTokenizer(with_random_weights(build), PUBLISHED.name, "random weights", "none")
    if source is None:
        source = PUBLISHED.locate(None)[0].parent
    folder = resolve(source)
    return OwnTokenizer(AutoencoderFAE.from_pretrained(folder), PUBLISHED.name, source_name(source), licence(folder))
