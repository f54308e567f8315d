"""Compiled steps: the same pictures, for batches of any size, and no call waits for a compiler.

The compiler's plainest backend stands for inductor, which takes longer; the slow test takes inductor itself.
"""

import pytest
import torch
from PIL import Image
from torch._dynamo.utils import counters

from rpiae import RPiAEPipeline
from rpiae.compiled import compile_steps, is_compiled, nothing_compiled_anew
from rpiae.recipe import describe_pipeline


@pytest.fixture(params=["float32", "bfloat16"])
def pipe(smoke_checkpoint, request):
    """In both formats that the studio takes: bfloat16 goes another way through attention on some processors."""
    loaded = RPiAEPipeline.from_pretrained(smoke_checkpoint)
    loaded.transformer.to(getattr(torch, request.param))
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
    compiled = graphs()
    assert is_compiled(pipe.transformer) and compiled >= 1
    calls, real = [], pipe.transformer.blocks[0].target
    pipe.transformer.blocks[0].target = lambda *parts: calls.append(len(parts[0])) or real(*parts)
    after = latents(pipe)
    assert calls == [2] * 3 + [3] * 3 + [4] * 3
    assert graphs() == compiled  # nothing was compiled on the way
    near = 1e-4 if pipe.transformer.dtype == torch.float32 else 0.1
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, atol=near, rtol=near)
    assert describe_pipeline(pipe)["attention"] == f"{attention}; steps compiled where they fit"
    # What does not fit, a single row, runs as it did.
    alone = pipe("a red car", output_type="latent", num_inference_steps=2, guidance_scale=1.0)
    assert alone.images.isfinite().all() and calls[-2:] == [1, 1] and graphs() == compiled


def test_calls_in_two_threads_leave_the_compiler_as_it_was(pipe):
    """The first to come is the first to go, which is not how nested blocks end."""
    compile_steps(pipe, backend="aot_eager")
    stance = torch._dynamo.eval_frame._stance.stance
    first, second = nothing_compiled_anew(pipe.transformer), nothing_compiled_anew(pipe.transformer)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch._dynamo.eval_frame._stance.stance == "eager_on_recompile"
    second.__exit__(None, None, None)
    assert torch._dynamo.eval_frame._stance.stance == stance


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
        near = 1e-3 if pipe.transformer.dtype == torch.float32 else 0.3
        torch.testing.assert_close(one, other, atol=near, rtol=near)
