"""The transformer runs in bfloat16 where that is fast; the tokenizer, and so the pixels, stay in float32."""

import pytest
import torch
from PIL import Image

from rpiae import RPiAEPipeline, precision
from rpiae.recipe import describe_pipeline


@pytest.mark.parametrize(
    ("avx512_bf16", "amx", "dtype"),
    [(False, False, torch.float32), (True, False, torch.bfloat16), (False, True, torch.bfloat16)],
)
def test_the_format_follows_from_the_processor_alone(monkeypatch, avx512_bf16, amx, dtype):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert precision.fast_dtype("cpu") == dtype


def test_small_transformers_in_batches_stay_in_float32(smoke_checkpoint, monkeypatch):
    monkeypatch.setattr(precision, "fast_dtype", lambda device: torch.bfloat16)
    pipe = RPiAEPipeline.from_pretrained(smoke_checkpoint)
    precision.speed_up(pipe, batches=True)
    assert pipe.transformer.dtype == torch.float32
    monkeypatch.setattr(precision, "SMALL", 1000)
    precision.speed_up(pipe, batches=True)
    assert pipe.transformer.dtype == torch.bfloat16


def test_an_edit_in_bfloat16_is_that_in_float32_within_its_rounding(smoke_checkpoint, monkeypatch):
    monkeypatch.setattr(precision, "fast_dtype", lambda device: torch.bfloat16)
    picture = Image.effect_noise((256, 256), 64).convert("RGB")
    results = []
    for fast in (False, True):
        pipe = RPiAEPipeline.from_pretrained(smoke_checkpoint)
        pipe.set_progress_bar_config(disable=True)
        if fast:
            precision.speed_up(pipe)
        results.append(
            pipe(
                "make it blue", image=picture, generator=torch.Generator().manual_seed(0),
                num_inference_steps=4, preserve_unchanged=False, output_type="pt",
            ).images
        )  # fmt: skip
    assert (pipe.vae.dtype, pipe.transformer.dtype) == (torch.float32, torch.bfloat16)
    assert describe_pipeline(pipe)["dtype"] == "bfloat16 (tokenizer float32)"
    error = (results[0] - results[1]).abs()
    assert 0 < error.mean() < 1 / 255
