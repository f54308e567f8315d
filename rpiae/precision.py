"""Which number format the transformer's steps run in where nobody chose one.

bfloat16 where the hardware multiplies it faster than float32: GPUs from Ampere on, CPUs with AVX-512 BF16 or AMX.
float32 elsewhere, and for small transformers whose batches change in size. The tokenizer stays in float32: its pixels
are compared with the input's.
"""

import torch

from .loading import cast

SMALL = 100_000_000  # parameters


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


def speed_up(pipeline, batches: bool = False) -> None:
    """Bring a pipeline's transformer to the format that is fast where it is.

    batches: whether pictures of several requests are drawn in one batch. In bfloat16 a picture's last digits depend on
        how many are computed with it (measured: up to 15 grey levels, more than one in 5 % of the pixels). So a small
        transformer, whose steps on a GPU wait more than they compute, stays in float32 then; a large one does not.
    """
    small = sum(one.numel() for one in pipeline.transformer.parameters()) < SMALL
    cast(pipeline.transformer, torch.float32 if batches and small else fast_dtype(pipeline.device))
