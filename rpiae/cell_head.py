"""A head at the latent's own resolution, for transformers no wider than the latent numbers that a token stands for.

A token of p x p cells has to carry what it shows and all of its numbers at once; RAE (Zheng et al., 2025,
arXiv:2510.11690) finds that a diffusion transformer must be wider than its tokens, and gives it a wide and shallow
head. This one is narrow instead and looks at single cells: what the trunk says of a cell, the cell's own noisy numbers
and its neighbours' go through a few layers of depthwise convolution and SwiGLU, modulated by time.

It may also tell which parts of a picture an edit changes: better than differences between latents can, which are as
large where a small model is merely inexact.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import RMSNorm, SwiGLU, map_to_tokens, tokens_to_map, unpatchify


class CellLayer(nn.Module):
    """Neighbours by a 3x3 depthwise convolution, then SwiGLU with shift, scale and gate, both on a residual path."""

    def __init__(self, width: int):
        super().__init__()
        self.neighbours = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = RMSNorm(width)
        self.feed_forward = SwiGLU(width, 2 * width)
        self.modulation_offset = nn.Parameter(torch.zeros(3, width))  # added to what all layers share

    def forward(self, x: Tensor, modulation: Tensor, grid: tuple[int, int]) -> Tensor:
        """Cells (B, h*w, d), modulation (B or 1, 3, d)."""
        shift, scale, gate = (modulation + self.modulation_offset).unsqueeze(2).unbind(1)
        x = x + map_to_tokens(self.neighbours(tokens_to_map(x, grid)))
        return x + gate * self.feed_forward(self.norm(x) * (1 + scale) + shift)


class CellHead(nn.Module):
    """Trunk tokens, noisy latent and source → `outputs` numbers per cell, zero at the start.

    Args:
        trunk_width: d of the trunk's tokens.
        channels: c of the latent.
        patch_size: cells per token, on each side.
        width, num_layers: of the head.
        outputs: numbers per cell.
        change_parts: parts of a cell, on each side, of which each is told whether the edit changes it; 0: none is.
    """

    def __init__(
        self,
        trunk_width: int,
        channels: int,
        patch_size: int,
        width: int,
        num_layers: int,
        outputs: int,
        change_parts: int = 0,
    ):
        super().__init__()
        self.patch_size, self.change_parts = patch_size, change_parts
        self.from_trunk = nn.Linear(trunk_width, width * patch_size**2)
        self.from_noisy = nn.Linear(channels, width)
        self.from_source = nn.Linear(channels, width, bias=False)
        self.blocks = nn.ModuleList(CellLayer(width) for _ in range(num_layers))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(trunk_width, 3 * width))
        self.norm = RMSNorm(width)
        self.output = nn.Linear(width, outputs)
        self.change = nn.Linear(width, change_parts**2) if change_parts else None

    def start(self) -> None:
        """Open gates, no neighbours yet, and an output of zero: a trunk that was trained before goes on as it was."""
        for layer in (self.modulation[-1], self.output):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for block in self.blocks:
            nn.init.zeros_(block.neighbours.weight)
            nn.init.zeros_(block.neighbours.bias)
            nn.init.ones_(block.modulation_offset[2])

    def encode_time(self, time: Tensor) -> Tensor:
        """Time embeddings (T, trunk_width) → shift, scale and gate (T, 3, width)."""
        return rearrange(self.modulation(time), "t (three d) -> t three d", three=3)

    def encode_source(self, source: Tensor, grid: tuple[int, int]) -> Tensor:
        """The source's patches (B, n, p*p*c) → what it says of each cell, (B, h*w, width)."""
        return self.from_source(self._by_cell(source, grid))

    def forward(
        self, tokens: Tensor, noisy: Tensor, source: Tensor, modulation: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor | None]:
        """Trunk tokens (B, n, trunk_width), x_t's patches (B, n, p*p*c), `encode_source`'s cells, `encode_time`'s
        modulation → numbers (B, outputs, h, w), and logits of a change (B, 1, s*h, s*w) where it tells them."""
        cells = (grid[0] * self.patch_size, grid[1] * self.patch_size)
        x = self._by_cell(self.from_trunk(tokens), grid) + self.from_noisy(self._by_cell(noisy, grid)) + source
        for block in self.blocks:
            x = block(x, modulation, cells)
        x = self.norm(x)
        numbers = tokens_to_map(self.output(x), cells)
        if self.change is None:
            return numbers, None
        return numbers, F.pixel_shuffle(tokens_to_map(self.change(x), cells), self.change_parts)

    def _by_cell(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        return map_to_tokens(unpatchify(patches, grid, self.patch_size))
