"""LightningDiT2DModel: the class-conditional diffusion transformer, weight-compatible with the authors' LightningDiT.

Noisy latent, time and class label → velocity. Patches get a trained position table and 2-D rotary positions; time and
label are added up and modulate every block by shift, scale and gate. Label `num_classes` is "no class".
(LightningDiT: Yao et al. 2025; conventions from reference facts (a) and "Conventions".)
"""

import math
from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from .attention import AttentionChoice, attention
from .layers import ModulatedBlock, RMSNorm, map_to_tokens, rope_table, unpatchify
from .loading import StrictLoading


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pairs (x1, x2) of the head width. x: (B, n, l, k); cos, sin: (n, k), each angle twice. These tables lie in
    the authors' files, so they are used number by number as they are there."""
    x1, x2 = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([-x2, x1], dim=-1).flatten(-2)
    return x * cos.to(x.dtype)[None, :, None] + turned * sin.to(x.dtype)[None, :, None]


class LightningBlock(ModulatedBlock):
    """Modulated by what its layer `modulation` makes of the condition (B, d): (B, 6d)."""

    def __init__(self, width: int, num_heads: int, hidden: int):
        super().__init__(width, num_heads, hidden)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, modulation: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        shift1, scale1, *rest = modulation[:, None].chunk(6, dim=-1)
        q, k, v = self.project(x, shift1, scale1)
        return self.finish(x, attention(rotate(q, cos, sin), rotate(k, cos, sin), v), *rest)


class LightningDiT2DModel(AttentionChoice, StrictLoading, ModelMixin, ConfigMixin):
    """Class-conditional diffusion transformer on RPiAE latents; the defaults are the released XL/1.

    Args:
        in_channels: channels of the latent.
        sample_size: rows (= columns) of the latent.
        patch_size: latent cells per token, on each side.
        hidden_size, num_layers, num_heads, feed_forward_size: the transformer (SwiGLU's inner width last).
        num_classes: labels 0 ... num_classes - 1; label num_classes means "no class".
        time_frequencies: random frequencies of the time embedding.
    """

    # Angles are 2 pi times these: rounded to bfloat16 they would be off by some hundredths of a radian.
    _keep_in_fp32_modules = ["frequencies"]

    @register_to_config
    def __init__(
        self,
        in_channels: int = 64,
        sample_size: int = 16,
        patch_size: int = 1,
        hidden_size: int = 1152,
        num_layers: int = 28,
        num_heads: int = 16,
        feed_forward_size: int = 3072,
        num_classes: int = 1000,
        time_frequencies: int = 256,
    ):
        super().__init__()
        if sample_size % patch_size:
            raise ValueError(f"patch size {patch_size} does not divide the latent's {sample_size} rows")
        if hidden_size % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide the width {hidden_size}")
        self.grid = (sample_size // patch_size, sample_size // patch_size)
        self.input = nn.Conv2d(in_channels, hidden_size, patch_size, stride=patch_size)
        table = get_2d_sincos_pos_embed(hidden_size, self.grid[0], output_type="pt")
        self.position_table = nn.Parameter(table.float()[None])
        self.frequencies = nn.Parameter(torch.randn(time_frequencies))
        self.time_embedding = nn.Sequential(
            nn.Linear(2 * time_frequencies, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )
        self.label_embedding = nn.Embedding(num_classes + 1, hidden_size)
        places = rope_table(self.grid, hidden_size // num_heads).repeat_interleave(2, dim=1)
        self.register_buffer("rope_cos", places[..., 0].contiguous())
        self.register_buffer("rope_sin", places[..., 1].contiguous())
        self.blocks = nn.ModuleList(
            LightningBlock(hidden_size, num_heads, feed_forward_size) for _ in range(num_layers)
        )
        self.output_norm = RMSNorm(hidden_size)
        self.output_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))
        self.output = nn.Linear(hidden_size, patch_size**2 * in_channels)
        self._start()

    def _start(self) -> None:
        """Blocks start as the identity and the output at zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.input.weight.view(len(self.input.weight), -1))
        nn.init.zeros_(self.input.bias)
        for layer in (self.label_embedding, self.time_embedding[0], self.time_embedding[2]):
            nn.init.normal_(layer.weight, std=0.02)
        for layer in (*(block.modulation[-1] for block in self.blocks), self.output_modulation[-1], self.output):
            nn.init.zeros_(layer.weight)

    @classmethod
    def from_official(
        cls, path: str, num_heads: int = 16, torch_dtype: torch.dtype = torch.float32
    ) -> "LightningDiT2DModel":
        """The authors' .pt file, in any of its layouts; all sizes but the number of heads are read from it.

        Args:
            path: the file, a folder with the released LightningDiT/ep-0000800.pt, or "hf:qihoo360/RPiAE".
            num_heads: attention heads (16 in the released model).
            torch_dtype: of the loaded weights.

        Raises:
            ValueError: what the file is instead, or which of its tensors are missing, unexpected or misshapen.
        """
        from .official import load_transformer

        return load_transformer(path, num_heads, torch_dtype)

    @apply_forward_hook
    def modulations(self, times: Tensor, class_labels: Tensor) -> list[Tensor]:
        """What blocks and output make of time and label, for `modulation` of as many steps: times (S,) and labels (B,)
        → for each block (S, B, 6d), for the output (S, B, 2d)."""
        return self._modulations(self._encode_time(times)[:, None] + self.label_embedding(class_labels))

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        class_labels: Tensor,
        return_dict: bool = True,
        *,
        modulation: Sequence[Tensor] | None = None,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Noisy latent, time and label → `.sample`, the velocity (noise - data).

        Args:
            hidden_states: x_t (B, C, h, w).
            timestep: t (B,) or one number, in [0, 1]; t = 1 is noise.
            class_labels: (B,) integers; num_classes means "no class".
            modulation: this step's part of `modulations`, where that was done before.
        """
        config = self.config
        if hidden_states.shape[1:] != (config.in_channels, config.sample_size, config.sample_size):
            wanted = f"(B, {config.in_channels}, {config.sample_size}, {config.sample_size})"
            raise ValueError(f"the noisy latent must be {wanted}, it is {tuple(hidden_states.shape)}")
        if class_labels.shape != hidden_states.shape[:1]:
            raise ValueError(f"{len(hidden_states)} latents need as many labels, they are {tuple(class_labels.shape)}")
        x = map_to_tokens(self.input(hidden_states)) + self.position_table
        if modulation is None:
            time = self._encode_time(torch.as_tensor(timestep, device=x.device).flatten().expand(len(x)))
            modulation = self._modulations(time + self.label_embedding(class_labels))
        *of_blocks, of_output = modulation
        for block, of_block in zip(self.blocks, of_blocks, strict=True):
            x = block(x, of_block, self.rope_cos, self.rope_sin)
        shift, scale = of_output[:, None].chunk(2, dim=-1)
        x = self.output(self.output_norm(x) * (1 + scale) + shift)
        sample = unpatchify(x, self.grid, config.patch_size)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def _modulations(self, condition: Tensor) -> list[Tensor]:
        return [layer(condition) for layer in (*(block.modulation for block in self.blocks), self.output_modulation)]

    def _encode_time(self, times: Tensor) -> Tensor:
        return self.time_embedding(self._time_features(times))

    def _time_features(self, times: Tensor) -> Tensor:
        """(B,) → (B, 2 * frequencies), sines then cosines. In float32: the angles reach tens of radians."""
        angles = 2 * math.pi * times.float()[:, None] * self.frequencies.float()
        return torch.cat([angles.sin(), angles.cos()], dim=-1).to(self.time_embedding[0].weight.dtype)
