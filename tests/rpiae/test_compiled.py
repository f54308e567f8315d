"""Compiled steps: the same pictures, for batches of any size, and no call waits for a compiler.

The compiler's plainest backend stands for inductor, which takes longer; the slow test takes inductor itself.
"""

import pytest
import torch
from PIL import Image
from torch._dynamo.utils import counters

from rpiae import RPiAEPipeline
from rpiae.compiled import compile_steps, is_compiled
from rpiae.recipe import describe_pipeline


@pytest.fixture
def pipe(smoke_checkpoint):
    loaded = RPiAEPipeline.from_pretrained(smoke_checkpoint)
    loaded.set_progress_bar_config(disable=True)
    torch._dynamo.reset()
    yield loaded
    torch._dynamo.reset()


def latents(pipe: RPiAEPipeline) -> list[torch.Tensor]:
    """Three calls of different batches: 2 rows, 3 rows (an edit with both guidances), 4 rows (two pictures)."""
    picture = Image.linear_gradient("L").convert("RGB")
    some = {"output_type": "latent", "num_inference_steps": 3, "guidance_scale": 2.0}
    seeds = [torch.Generator().manual_seed(seed) for seed in range(4)]
    return [
        pipe("a red car", generator=seeds[0], **some).images,
        pipe("make it blue", image=picture, image_guidance_scale=1.5, generator=seeds[1], **some).images,
        pipe(["a cat", "a dog"], generator=seeds[2:], **some).images,
    ]


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def test_one_program_serves_every_layer_and_every_batch(pipe):
    torch.manual_seed(0)
    before, attention = latents(pipe), describe_pipeline(pipe)["attention"]
    counters.clear()
    compile_steps(pipe, backend="aot_eager")
    assert is_compiled(pipe.transformer) and graphs() == 1
    calls, real = [], pipe.transformer.blocks[0].target
    pipe.transformer.blocks[0].target = lambda *parts: calls.append(len(parts[0])) or real(*parts)
    after = latents(pipe)
    assert calls == [2] * 3 + [3] * 3 + [4] * 3
    assert graphs() == 1  # nothing was compiled on the way
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert describe_pipeline(pipe)["attention"] == f"{attention}; steps compiled, with SDPA"
    # What does not fit, a single row, runs as it did.
    alone = pipe("a red car", output_type="latent", num_inference_steps=2, guidance_scale=1.0)
    assert alone.images.isfinite().all() and calls[-2:] == [1, 1] and graphs() == 1


def test_where_there_is_no_compiler_the_pipeline_stays_as_it_was(pipe):
    def broken(graph, inputs):
        raise RuntimeError("no compiler\nand a long trace")

    before = latents(pipe)
    with pytest.raises(ValueError, match="cannot be compiled here") as fault:
        compile_steps(pipe, backend=broken)
    assert "\n" not in str(fault.value) and not is_compiled(pipe.transformer)
    assert all(torch.equal(one, other) for one, other in zip(before, latents(pipe), strict=True))


@pytest.mark.slow
def test_inductor_compiles_them(pipe):
    before = latents(pipe)
    pipe.compile_steps()
    for one, other in zip(before, latents(pipe), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)
