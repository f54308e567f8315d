"""AutoencoderRPiAE: representation encoder + variational bridge + pixel decoder.

    picture → encoder → feature map → bridge → latent → bridge → feature map → decoder → picture

Pixels are float in [0, 1]. The latent is the posterior's mode; `normalise` and `denormalise` bring it to the unit
scale on which the diffusion transformer works, and their constants travel in the config.
"""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor

from .attention import AttentionChoice
from .bridge import Posterior, VariationalBridge
from .decoder import PixelDecoder
from .encoder import build_encoder
from .loading import StrictLoading


class AutoencoderRPiAE(AttentionChoice, StrictLoading, ModelMixin, ConfigMixin):
    """The RPiAE tokenizer.

    Args:
        encoder_config: {"kind": "dinov2" | "vit", ...} for `rpiae.encoder.build_encoder`.
        decoder_config: arguments of `PixelDecoder` (without feature_channels).
        bridge_config: arguments of `VariationalBridge` (without feature_channels); None leaves the bridge out, as in
            stage 1, where the latent is the feature map itself.
        image_size: side of the pictures that the tokenizer is made for, in pixels.
        latents_mean: per latent channel, subtracted by `normalise`; None is zero.
        latents_scale: per latent channel, multiplied by `normalise`; None is one.
    """

    @register_to_config
    def __init__(
        self,
        encoder_config: dict,
        decoder_config: dict,
        bridge_config: dict | None = None,
        image_size: int = 256,
        latents_mean: list | None = None,
        latents_scale: list | None = None,
    ):
        super().__init__()
        self.encoder = build_encoder(encoder_config, image_size)
        channels = self.encoder.feature_channels
        self.bridge = None
        if bridge_config is not None:
            self.bridge = VariationalBridge(channels, **bridge_config)
        self.decoder = PixelDecoder(channels, **decoder_config)
        if not isinstance(image_size, int) or image_size < 1 or image_size % self.encoder.downsampling:
            raise ValueError(f"image_size must be a multiple of {self.encoder.downsampling}, it is {image_size!r}")
        self._check_latent_constants()

    @classmethod
    def from_official(
        cls,
        path: str,
        encoder_num_heads: int = 12,
        decoder_num_heads: int = 16,
        bridge: bool = True,
        pivot_replica: bool = False,
        torch_dtype: torch.dtype = torch.float32,
    ) -> "AutoencoderRPiAE":
        """The authors' .pt file, in any of its layouts; all sizes but the numbers of heads are read from it.

        Args:
            path: the file, a folder with the released rpiae_stage3_1_c64_ema.pt, or "hf:qihoo360/RPiAE".
            encoder_num_heads, decoder_num_heads: attention heads (12 and 16 in the released model).
            bridge: False takes a stage-1 checkpoint, which has none.
            pivot_replica: with a stage-1 checkpoint, the frozen replica in place of the trained encoder.
            torch_dtype: of the loaded weights.

        Raises:
            ValueError: what the file is instead, or which of its tensors are missing, unexpected or misshapen.
        """
        from .official import load_autoencoder

        return load_autoencoder(path, encoder_num_heads, decoder_num_heads, bridge, pivot_replica, torch_dtype)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one picture's latent."""
        channels = self.bridge.latent_channels if self.bridge is not None else self.encoder.feature_channels
        side = self.config.image_size // self.encoder.downsampling
        return (channels, side, side)

    def encode_features(self, x: Tensor) -> Tensor:
        """Picture (B, 3, H, W) in [0, 1] → feature map (B, F, h, w), before the bridge."""
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"a picture tensor must be (B, 3, H, W), this one is {tuple(x.shape)}")
        return self.encoder(x)

    @apply_forward_hook
    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[Posterior]:
        """Picture (B, 3, H, W) in [0, 1] → `.latent_dist`, a Posterior over (B, C, h, w)."""
        features = self.encode_features(x)
        if self.bridge is None:
            posterior = Posterior(features, torch.full_like(features, -30.0))
        else:
            posterior = self.bridge.encode(features)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    @apply_forward_hook
    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Latent (B, C, h, w), not normalised → `.sample`, (B, 3, H, W), about [0, 1], not clamped."""
        features = z if self.bridge is None else self.bridge.decode(z)
        sample = self.decoder(features)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction through the posterior's mode, (B, 3, H, W) → (B, 3, H, W)."""
        return self.decode(self.encode(x).latent_dist.mode()).sample

    def normalise(self, latent: Tensor) -> Tensor:
        """Latent → the diffusion transformer's scale."""
        mean, scale = self._latent_constants(latent)
        return (latent - mean) * scale

    def denormalise(self, latent: Tensor) -> Tensor:
        mean, scale = self._latent_constants(latent)
        return latent / scale + mean

    def _check_latent_constants(self) -> None:
        for name in ("latents_mean", "latents_scale"):
            given = self.config[name]
            if given is not None and len(given) != self.latent_shape[0]:
                raise ValueError(f"{name} has {len(given)} numbers, the latent {self.latent_shape[0]} channels")

    def _latent_constants(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        given = (self.config.latents_mean or [0.0], self.config.latents_scale or [1.0])
        mean, scale = (torch.tensor(one, dtype=latent.dtype, device=latent.device) for one in given)
        return mean.view(1, -1, 1, 1), scale.view(1, -1, 1, 1)
