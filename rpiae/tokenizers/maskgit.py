"""MaskGIT's VQGAN (f16, 1,024 codes of 256 numbers; Chang et al. 2022), under the names of its PyTorch port.

Convolutions only. Two oddities are its authors': where a residual block changes its width, the shortcut is taken from
the block's *result*; and convolutions inside the blocks have no bias. Pictures are in [0, 1] inside too.
Licence of the published weights: Apache-2.0 (`fun-research/TiTok`).
"""

import os

from torch import Tensor, nn
from torch.nn import functional as F

from .codebook import CodebookTokenizer
from .published import Published

ARCHITECTURE = {"width": 128, "multiples": (1, 1, 2, 2, 4), "blocks": 2, "code_width": 256, "codes": 1024}
PUBLISHED = Published(
    name="maskgit-vqgan",
    hub_id="fun-research/TiTok",
    file="maskgit-vqgan-imagenet-f16-256.bin",
    licence="Apache-2.0",
    latent_shape=(ARCHITECTURE["code_width"], 16, 16),
    downsampling=16,
    codes=ARCHITECTURE["codes"],
)
GROUPS, NORM_EPS = 32, 1e-6
find = PUBLISHED.find


class ResidualBlock(nn.Module):
    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, width_in, NORM_EPS)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(GROUPS, width, NORM_EPS)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.nin_shortcut = nn.Conv2d(width, width, 1, bias=False) if width_in != width else None

    def forward(self, x: Tensor) -> Tensor:
        result = self.conv1(F.silu(self.norm1(x)))
        result = self.conv2(F.silu(self.norm2(result)))
        return result + (x if self.nin_shortcut is None else self.nin_shortcut(result))


def residual_blocks(width_in: int, width: int, count: int) -> nn.ModuleList:
    return nn.ModuleList(ResidualBlock(width_in if i == 0 else width, width) for i in range(count))


class Level(nn.Module):
    """Residual blocks at one resolution; in the decoder, where a finer one follows, a convolution for after it."""

    def __init__(self, width_in: int, width: int, blocks: int, upsampled: bool = False):
        super().__init__()
        self.block = residual_blocks(width_in, width, blocks)
        self.upsample_conv = nn.Conv2d(width, width, 3, padding=1) if upsampled else None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return x


class Encoder(nn.Module):
    def __init__(self, widths: list[int], blocks: int, code_width: int):
        super().__init__()
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        before = [widths[0], *widths[:-1]]
        self.down = nn.ModuleList(Level(*pair, blocks) for pair in zip(before, widths, strict=True))
        self.mid = residual_blocks(widths[-1], widths[-1], blocks)
        self.norm_out = nn.GroupNorm(GROUPS, widths[-1], NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], code_width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for index, level in enumerate(self.down):
            x = level(x if index == 0 else F.avg_pool2d(x, 2))
        for block in self.mid:
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """Its levels are counted as the encoder's, from the finest, and run from the coarsest."""

    def __init__(self, widths: list[int], blocks: int, code_width: int):
        super().__init__()
        self.conv_in = nn.Conv2d(code_width, widths[-1], 3, padding=1)
        self.mid = residual_blocks(widths[-1], widths[-1], blocks)
        before = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(
            Level(before[index], width, blocks, upsampled=index > 0) for index, width in enumerate(widths)
        )
        self.norm_out = nn.GroupNorm(GROUPS, widths[0], NORM_EPS)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.conv_in(z)
        for block in self.mid:
            x = block(x)
        for level in reversed(self.up):
            x = level(x)
            if level.upsample_conv is not None:
                x = level.upsample_conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv_out(F.silu(self.norm_out(x)))


class Quantizer(nn.Module):
    def __init__(self, codes: int, code_width: int):
        super().__init__()
        self.embedding = nn.Embedding(codes, code_width)


class MaskGITVQGAN(nn.Module):
    """Pictures (B, 3, H, W) in [0, 1] ↔ features (B, code_width, H/16, W/16); the quantizer holds the codebook.

    Args:
        width, multiples: channels of the resolutions, finest first, are width times each multiple.
        blocks: residual blocks at each resolution, and in the middle.
    """

    def __init__(self, width: int, multiples: tuple[int, ...], blocks: int, code_width: int, codes: int):
        super().__init__()
        widths = [width * multiple for multiple in multiples]
        self.encoder = Encoder(widths, blocks, code_width)
        self.decoder = Decoder(widths, blocks, code_width)
        self.quantize = Quantizer(codes, code_width)


class MaskGITTokenizer(CodebookTokenizer):
    @property
    def codebook(self) -> Tensor:
        return self.model.quantize.embedding.weight

    def features_(self, x: Tensor) -> Tensor:
        return self.model.encoder(x)

    def decode_(self, z: Tensor) -> Tensor:
        return self.model.decoder(z)


def build() -> MaskGITVQGAN:
    return MaskGITVQGAN(**ARCHITECTURE)


def load(source: str | os.PathLike | None = None) -> MaskGITTokenizer:
    """From the published .bin, a folder that holds it, "hf:org/name", "random" or, without a source, what is on this
    machine. Raises ValueError."""
    return MaskGITTokenizer(*PUBLISHED.load(source, build))
