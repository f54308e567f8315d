"""The published convolutional tokenizers once more, as plain functions over a file's tensors under the file's names.

    store = Store(0)
    moments = latent_diffusion.encode(store, x)     # tensors come into being as they are asked for
    store.tensors                                   # what a published file of this size holds

Independent of `rpiae.tokenizers`: order of layers and names follow the authors' repositories (latent diffusion's
autoencoder, LlamaGen's vq_model, 1d-tokenizer's maskgit_vqgan). Narrow, so that a run takes a second.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

WIDTHS = (8, 8, 16, 16, 32)
GROUPS = 4


class Store:
    """Random tensors by name, made when first asked for."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)
        self.tensors = {}

    def __call__(self, name, *shape, mean=0.0, scale=0.1):
        if name not in self.tensors:
            self.tensors[name] = mean + scale * torch.randn(shape, generator=self.generator)
        assert self.tensors[name].shape == shape
        return self.tensors[name]


def conv(store, name, x, width, size=3, bias=True, stride=1, padding=None):
    weight = store(f"{name}.weight", width, x.shape[1], size, size, scale=(x.shape[1] * size * size) ** -0.5)
    offset = store(f"{name}.bias", width) if bias else None
    return F.conv2d(x, weight, offset, stride, size // 2 if padding is None else padding)


def norm(store, name, x):
    width = x.shape[1]
    weight, bias = store(f"{name}.weight", width, mean=1.0), store(f"{name}.bias", width)
    return F.group_norm(x, GROUPS, weight, bias, 1e-6)


def double(x):
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def residual(store, name, x, width):
    result = conv(store, f"{name}.conv1", F.silu(norm(store, f"{name}.norm1", x)), width)
    result = conv(store, f"{name}.conv2", F.silu(norm(store, f"{name}.norm2", result)), width)
    return result + (x if x.shape[1] == width else conv(store, f"{name}.nin_shortcut", x, width, size=1))


def attend(store, name, x):
    """One head over all places."""
    width, inside = x.shape[1], norm(store, f"{name}.norm", x)
    q, k, v = (conv(store, f"{name}.{part}", inside, width, size=1).flatten(2) for part in "qkv")
    weights = torch.softmax(q.mT @ k / width**0.5, dim=-1)  # (places that ask, places that answer)
    return x + conv(store, f"{name}.proj_out", (v @ weights.mT).view(x.shape), width, size=1)


@dataclass(frozen=True)
class Autoencoder:
    """Latent diffusion's and LlamaGen's, which differ in names and in what is next to the latent."""

    down: str  # with {level}, as all of the following
    up: str
    block: str
    middle: tuple[str, str, str]
    counts_up: bool  # the decoder's first level is number 0, not the encoder's
    features: int  # channels of the encoder's end
    quantised: int  # of quant_conv's output
    widened: int  # of post_quant_conv's output

    def encode(self, store, x):
        x = conv(store, "encoder.conv_in", x, WIDTHS[0])
        for level, width in enumerate(WIDTHS):
            name, last = self.down.format(level=level), level == len(WIDTHS) - 1
            for index in range(2):
                x = residual(store, f"{name}.{self.block}.{index}", x, width)
                x = attend(store, f"{name}.attn.{index}", x) if last else x
            if not last:
                x = conv(store, f"{name}.downsample.conv", F.pad(x, (0, 1, 0, 1)), width, stride=2, padding=0)
        x = conv(store, "encoder.conv_out", self.out(store, "encoder", x, first=True), self.features)
        return conv(store, "quant_conv", x, self.quantised, size=1)

    def decode(self, store, z):
        x = conv(store, "post_quant_conv", z, self.widened, size=1)
        x = self.out(store, "decoder", conv(store, "decoder.conv_in", x, WIDTHS[-1]), first=False)
        return conv(store, "decoder.conv_out", x, 3)

    def out(self, store, side, x, first):
        """The middle, in the decoder all levels, and the last norm."""
        residual_1, attention, residual_2 = (f"{side}.{name}" for name in self.middle)
        x = residual(store, residual_1, x, WIDTHS[-1])
        x = residual(store, residual_2, attend(store, attention, x), WIDTHS[-1])
        for level in () if first else reversed(range(len(WIDTHS))):
            name = self.up.format(level=len(WIDTHS) - 1 - level if self.counts_up else level)
            for index in range(3):
                x = residual(store, f"{name}.{self.block}.{index}", x, WIDTHS[level])
                x = attend(store, f"{name}.attn.{index}", x) if level == len(WIDTHS) - 1 else x
            x = conv(store, f"{name}.upsample.conv", double(x), WIDTHS[level]) if level else x
        return F.silu(norm(store, f"{side}.norm_out", x))


latent_diffusion = Autoencoder(
    "encoder.down.{level}", "decoder.up.{level}", "block", ("mid.block_1", "mid.attn_1", "mid.block_2"),
    counts_up=False, features=64, quantised=64, widened=32,
)  # fmt: skip
llamagen = Autoencoder(
    "encoder.conv_blocks.{level}", "decoder.conv_blocks.{level}", "res", ("mid.0", "mid.1", "mid.2"),
    counts_up=True, features=256, quantised=8, widened=256,
)  # fmt: skip


class maskgit:
    """Convolutions without attention; the shortcut of a block that changes its width starts at the block's result."""

    @staticmethod
    def residual(store, name, x, width):
        result = conv(store, f"{name}.conv1", F.silu(norm(store, f"{name}.norm1", x)), width, bias=False)
        result = conv(store, f"{name}.conv2", F.silu(norm(store, f"{name}.norm2", result)), width, bias=False)
        if x.shape[1] != width:
            x = conv(store, f"{name}.nin_shortcut", result, width, size=1, bias=False)
        return result + x

    @classmethod
    def encode(cls, store, x):
        x = conv(store, "encoder.conv_in", x, WIDTHS[0], bias=False)
        for level, width in enumerate(WIDTHS):
            for index in range(2):
                x = cls.residual(store, f"encoder.down.{level}.block.{index}", x, width)
            x = F.avg_pool2d(x, 2) if level < len(WIDTHS) - 1 else x
        for index in range(2):
            x = cls.residual(store, f"encoder.mid.{index}", x, WIDTHS[-1])
        return conv(store, "encoder.conv_out", F.silu(norm(store, "encoder.norm_out", x)), 256, size=1)

    @classmethod
    def decode(cls, store, z):
        x = conv(store, "decoder.conv_in", z, WIDTHS[-1])
        for index in range(2):
            x = cls.residual(store, f"decoder.mid.{index}", x, WIDTHS[-1])
        for level in reversed(range(len(WIDTHS))):
            for index in range(2):
                x = cls.residual(store, f"decoder.up.{level}.block.{index}", x, WIDTHS[level])
            x = conv(store, f"decoder.up.{level}.upsample_conv", double(x), WIDTHS[level]) if level else x
        return conv(store, "decoder.conv_out", F.silu(norm(store, "decoder.norm_out", x)), 3)
