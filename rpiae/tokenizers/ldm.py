"""The convolutional autoencoder that VA-VAE and LlamaGen's VQ share: f16, attention at the lowest resolution.

Diffusers' blocks hold both exactly; here is what their published files call the same tensors.
"""

import re

LEVELS = 5
# Of diffusers' AutoencoderKL and VQModel.
ARCHITECTURE = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * (LEVELS - 1) + ["AttnDownEncoderBlock2D"],
    "up_block_types": ["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * (LEVELS - 1),
    "block_out_channels": [128, 128, 256, 256, 512],
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "sample_size": 256,
}

# Diffusers' → theirs, replaced in this order. Attention matrices are 1x1 convolutions there.
_COMMON = (
    (r"\.downsamplers\.0\.", ".downsample."),
    (r"\.upsamplers\.0\.", ".upsample."),
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.group_norm\.", ".norm."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0\.", ".proj_out."),
)
_LATENT_DIFFUSION = (
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
    (r"\.down_blocks\.", ".down."),
    # Their levels count from the picture upwards, in the decoder too.
    (r"\.up_blocks\.(\d+)\.", lambda match: f".up.{LEVELS - 1 - int(match[1])}."),
    (r"\.resnets\.", ".block."),
    (r"\.attentions\.", ".attn."),
    *_COMMON,
)
_LLAMAGEN = (
    (r"\.mid_block\.resnets\.0\.", ".mid.0."),
    (r"\.mid_block\.attentions\.0\.", ".mid.1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.2."),
    (r"\.(down|up)_blocks\.", ".conv_blocks."),
    (r"\.resnets\.", ".res."),
    (r"\.attentions\.", ".attn."),
    *_COMMON,
)


def latent_diffusion_name(name: str) -> str:
    """What latent diffusion's autoencoder, and so VA-VAE's file, calls a tensor of diffusers' AutoencoderKL."""
    return _replaced(name, _LATENT_DIFFUSION)


def llamagen_name(name: str) -> str:
    """What LlamaGen's file calls a tensor of diffusers' VQModel."""
    return _replaced(name, _LLAMAGEN)


def _replaced(name: str, table: tuple) -> str:
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name
