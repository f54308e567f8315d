"""How the authors' parts begin: the encoder as DINOv2, everything else at random."""

import torch
from torch import nn
from transformers import Dinov2WithRegistersModel

from rpiae.bridge import VariationalBridge
from rpiae.encoder import Dinov2Encoder, RepresentationEncoder
from rpiae.layers import SelfAttention
from rpiae.loading import misfit, resolve, shapes

# Not in the encoder: its final norm has no affine part.
LEFT_OUT = "layernorm."


def load_dinov2(encoder: RepresentationEncoder, source: str) -> None:
    """DINOv2's weights into a `dinov2` encoder.

    Args:
        source: a folder of transformers' DINOv2 with registers, or "hf:facebook/dinov2-with-registers-base".

    Raises:
        ValueError: the source is not there, is something else, or is of another size.
    """
    if not isinstance(encoder, Dinov2Encoder):
        raise ValueError(f"models.encoder_weights is for a dinov2 encoder, this one is a {type(encoder).__name__}")
    folder = resolve(source)
    try:
        found, report = Dinov2WithRegistersModel.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, dtype=torch.float32
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{source} holds no DINOv2 with registers that can be loaded ({reason})") from error
    if missing := sorted(report["missing_keys"]):  # transformers makes them up
        raise ValueError(f"{source} is no whole DINOv2 with registers: {', '.join(missing[:5])} missing")
    ours, theirs = encoder.model.config, found.config
    for name in ("num_attention_heads", "layer_norm_eps", "hidden_act", "use_swiglu_ffn"):
        if getattr(ours, name) != getattr(theirs, name):
            raise ValueError(
                f"{source} has {name}={getattr(theirs, name)}, models.encoder {getattr(ours, name)}: make them the same"
            )
    weights = {name: one for name, one in found.state_dict().items() if not name.startswith(LEFT_OUT)}
    if faults := misfit(shapes(encoder.model.state_dict()), shapes(weights)):
        raise ValueError(f"{source} does not fit models.encoder: {faults}")
    encoder.model.load_state_dict(weights)


def start_bridge_at_random(bridge: VariationalBridge) -> None:
    """Attention begins as PyTorch's `MultiheadAttention`, which the authors use; the rest does so by itself."""
    for module in bridge.modules():
        if isinstance(module, SelfAttention):
            nn.init.xavier_uniform_(module.qkv.weight)
            nn.init.zeros_(module.qkv.bias)
            nn.init.zeros_(module.out.bias)
