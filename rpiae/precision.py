"""Which number format the transformer's steps run in where nobody chose one.

bfloat16 where the hardware multiplies it faster than float32: GPUs from Ampere on, CPUs with AVX-512 BF16 or AMX.
float32 elsewhere. The tokenizer stays in float32: its pixels are compared with the input's.
"""

import torch

from .loading import cast


def fast_dtype(device: torch.device | str) -> torch.dtype:
    """The format by the capabilities of `device`, the same on every machine of its kind."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float32
    if kind == "cpu":
        # PyTorch asks the processor, but has no public name for the question.
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if fast else torch.float32
    return torch.float32


def speed_up(pipeline) -> None:
    """Bring a pipeline's transformer to the format that is fast where it is."""
    cast(pipeline.transformer, fast_dtype(pipeline.device))
