"""The pixel decoder: feature map (B, F, h, w) → picture (B, 3, h*p, w*p), a vision transformer and a linear head.

With `position="table"` and a class token it is the authors' decoder (the ViT-MAE layout); with `position="rope"`
it decodes maps of any size, which lets the compact one train on crops.
"""

import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torch import Tensor, nn

from .encoder import IMAGENET_MEAN, IMAGENET_STD
from .layers import TransformerBlock, map_to_tokens, rope_table, unpatchify


class PixelDecoder(nn.Module):
    """Feature map → picture, not clamped.

    Args:
        feature_channels: F of the incoming feature map.
        hidden_size, num_layers, num_heads, intermediate_size: the transformer.
        patch_size: pixels per feature map cell, on each side.
        grid: rows (= columns) of the map that a position table is made for; unused with "rope".
        position: "table" (learned table and class token) or "rope" (rotary).
        final_norm: LayerNorm before the head; the compact decoder leaves it out, see `CompactEncoder`.
        norm_eps: of every LayerNorm (1e-12 in the released model).
    """

    def __init__(
        self,
        feature_channels: int,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        intermediate_size: int,
        patch_size: int = 16,
        grid: int = 16,
        position: str = "table",
        final_norm: bool = True,
        norm_eps: float = 1e-12,
    ):
        super().__init__()
        if position not in ("table", "rope"):
            raise ValueError(f"decoder position is {position!r}; use 'table' or 'rope'")
        self.patch_size = patch_size
        self.head_width = hidden_size // num_heads
        self.input = nn.Linear(feature_channels, hidden_size)
        if position == "table":
            self.class_token = nn.Parameter(torch.zeros(1, 1, hidden_size))
            table = get_2d_sincos_pos_embed(hidden_size, grid, cls_token=True, extra_tokens=1, output_type="pt")
            self.position_table = nn.Parameter(table.float()[None])
        else:
            self.class_token = self.position_table = None
        self.blocks = nn.ModuleList(
            TransformerBlock(hidden_size, num_heads, intermediate_size, norm_eps) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(hidden_size, eps=norm_eps) if final_norm else nn.Identity()
        self.head = nn.Linear(hidden_size, patch_size * patch_size * 3)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def tokens(self, feature_map: Tensor) -> Tensor:
        """(B, F, h, w) → (B, h*w, d): what the head reads."""
        tokens = self.input(map_to_tokens(feature_map))
        rope = None
        if self.position_table is not None and tokens.shape[1] + 1 != self.position_table.shape[1]:
            places, size = self.position_table.shape[1] - 1, tuple(feature_map.shape[-2:])
            raise ValueError(f"this decoder's position table has {places} places, the map is {size[0]} x {size[1]}")
        if self.position_table is None:
            rope = rope_table(tuple(feature_map.shape[-2:]), self.head_width, device=tokens.device)
        else:
            tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1)
            tokens = tokens + self.position_table
        for block in self.blocks:
            tokens = block(tokens, rope)
        return self.norm(tokens if self.class_token is None else tokens[:, 1:])

    def forward(self, feature_map: Tensor) -> Tensor:
        patches = self.head(self.tokens(feature_map))
        return unpatchify(patches, tuple(feature_map.shape[-2:]), self.patch_size) * self.std + self.mean
