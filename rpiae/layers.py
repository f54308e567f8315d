"""Layers that the networks share.

Shape legend, used in every einops pattern of this library:
b batch, n tokens, d width, l heads, k head width, c channels, h w rows and columns of the token grid,
p q rows and columns of one patch.
"""

import warnings

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import attention

# Inductor leaves the product of `rotate` to PyTorch's own kernel, which is what is wanted.
warnings.filterwarnings("ignore", "Torchinductor does not support code generation for complex operators")


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """(B, C, h*p, w*p) → (B, h*w, p*p*C): tokens in row order, each vector ordered (row, column, channel)."""
    return rearrange(images, "b c (h p) (w q) -> b (h w) (p q c)", p=patch_size, q=patch_size)


def unpatchify(tokens: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """(B, h*w, p*p*C) → (B, C, h*p, w*p), the inverse of `patchify`."""
    h, w = grid
    return rearrange(tokens, "b (h w) (p q c) -> b c (h p) (w q)", h=h, w=w, p=patch_size, q=patch_size)


def map_to_tokens(feature_map: Tensor) -> Tensor:
    return rearrange(feature_map, "b c h w -> b (h w) c")


def tokens_to_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    return rearrange(tokens, "b (h w) c -> b c h w", h=grid[0], w=grid[1])


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned gain. The gain follows the input's dtype: under autocast a mismatch
    would fall off the fused kernel."""

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


class SwiGLU(nn.Module):
    """Gated feed-forward layer: out(silu(gate(x)) * value(x)) (Shazeer 2020)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_and_value = nn.Linear(width, 2 * hidden)
        self.out = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.gate_and_value(x).chunk(2, dim=-1)
        return self.out(F.silu(gate) * value)


class FeedForward(nn.Sequential):
    """Linear, erf GELU, Linear."""

    def __init__(self, width: int, hidden: int):
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


def rope_table(grid: tuple[int, int], head_width: int, device=None, theta: float = 10000.0) -> Tensor:
    """Rotation table of 2-D rotary positions, (h*w, head_width/2, 2) of (cos, sin), float32.

    The first half of the pairs turns with the row, the second with the column (reference fact (a), RoPE).
    """
    if head_width % 4:
        raise ValueError(f"2-D RoPE needs a head width that 4 divides, this one is {head_width}")
    quarter = head_width // 4
    frequencies = theta ** (-torch.arange(quarter, device=device, dtype=torch.float32) / quarter)
    rows, columns = torch.meshgrid(
        torch.arange(grid[0], device=device, dtype=torch.float32),
        torch.arange(grid[1], device=device, dtype=torch.float32),
        indexing="ij",
    )
    angles = torch.cat([rows.reshape(-1, 1) * frequencies, columns.reshape(-1, 1) * frequencies], dim=-1)
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn pairs (x1, x2) of the head width by the table's angles. x: (B, N, heads, k), table: (N, k/2, 2)."""
    # As complex numbers: pairs of neighbours are slow to reach in any other way, on a CPU eager or compiled.
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    turned = pairs * torch.view_as_complex(table.float())[None, :, None]
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


class SelfAttention(nn.Module):
    """Multi-head self-attention over (B, N, d), with one fused projection to queries, keys and values."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        if width % num_heads:
            raise ValueError(f"{num_heads} attention heads do not divide the width {width}")
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, rope: Tensor | None = None) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "b n (three l k) -> three b n l k", three=3, l=self.num_heads)
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        return self.out(rearrange(attention(q, k, v), "b n l k -> b n (l k)"))


class TransformerBlock(nn.Module):
    """Pre-norm vision transformer block: x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, width: int, num_heads: int, hidden: int, norm_eps: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attention = SelfAttention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.feed_forward = FeedForward(width, hidden)

    def forward(self, x: Tensor, rope: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norm1(x), rope)
        return x + self.feed_forward(self.norm2(x))


class ModulatedBlock(nn.Module):
    """A diffusion transformer's block, attention and SwiGLU: a shift and a scale before each, a gate behind each. Where
    they come from, how positions turn queries and keys, and what is attended to, is its subclasses' matter."""

    def __init__(self, width: int, num_heads: int, hidden: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.query_norm = RMSNorm(width // num_heads)
        self.key_norm = RMSNorm(width // num_heads)
        self.out = nn.Linear(width, width)
        self.norm2 = RMSNorm(width)
        self.feed_forward = SwiGLU(width, hidden)

    def project(self, x: Tensor, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, n, d) → queries and keys, normed, and values, each (B, n, l, k)."""
        qkv = self.qkv(self.norm1(x) * (1 + scale) + shift)
        q, k, v = rearrange(qkv, "b n (three l k) -> three b n l k", three=3, l=self.num_heads)
        return self.query_norm(q), self.key_norm(k), v

    def finish(
        self, x: Tensor, attended: Tensor, gate1: Tensor, shift2: Tensor, scale2: Tensor, gate2: Tensor
    ) -> Tensor:
        """Tokens and what they found, (B, n, l, k) → tokens after this block."""
        x = x + gate1 * self.out(rearrange(attended, "b n l k -> b n (l k)"))
        return x + gate2 * self.feed_forward(self.norm2(x) * (1 + scale2) + shift2)
