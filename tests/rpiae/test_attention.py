"""Attention gives softmax(QK^T / sqrt(D)) V whichever backend runs, and the choice is explained."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_dispatch import attention_backend

from rpiae import RPiAETransformer2DModel
from rpiae import attention as module
from rpiae.attention import attention, choose_backend, describe


def by_definition(q, k, v):
    scores = torch.einsum("bnhd,bmhd->bhnm", q.double(), k.double()) / math.sqrt(q.shape[-1])
    return torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), v.double())


def tokens(batch=2, queries=5, keys=9, heads=3, size=32):
    generator = torch.Generator().manual_seed(1)
    lengths = (queries, keys, keys)
    return [torch.randn(batch, length, heads, size, generator=generator) for length in lengths]


def test_agrees_with_the_definition():
    q, k, v = tokens()
    out = attention(q, k, v)
    assert out.shape == q.shape
    torch.testing.assert_close(out.double(), by_definition(q, k, v), atol=1e-6, rtol=0)


def test_gradients_reach_all_three_inputs():
    inputs = [t.requires_grad_() for t in tokens()]
    found = torch.autograd.grad(attention(*inputs).square().sum(), inputs)
    expected = torch.autograd.grad(by_definition(*inputs).square().sum(), inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_autocast_computes_in_bfloat16():
    q, k, v = tokens()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attention(q, k, v)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), by_definition(q, k, v), atol=0.03, rtol=0)


def test_gradients_in_bfloat16_agree_with_the_definition():
    inputs = [t.requires_grad_() for t in tokens()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attention(*inputs)
    found = torch.autograd.grad(out.float().square().sum(), inputs)
    expected = torch.autograd.grad(by_definition(*inputs).square().sum(), inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=0.03, rtol=0.03)


def test_a_cpu_uses_sdpa():
    assert choose_backend("cpu", torch.float32, 64) == "native"
    assert describe() == "SDPA"
    assert describe("cpu", torch.bfloat16).startswith("batched products")


def test_a_wanted_backend_that_works_is_used():
    q, k, v = tokens()
    with attention_backend("_native_math"):
        assert choose_backend("cpu", torch.float32, 32) == "_native_math"
        assert describe("cpu", torch.float32, 32) == "_native_math"
        torch.testing.assert_close(attention(q, k, v).double(), by_definition(q, k, v), atol=1e-6, rtol=0)
    assert describe("cpu", torch.float32, 32) == "SDPA"


def test_a_probe_works_inside_inference_mode():
    with torch.inference_mode(), attention_backend("_native_math"):
        assert choose_backend("cpu", torch.float32, 40) == "_native_math"  # 40: no other test probes it


def test_a_wanted_backend_that_fails_gives_sdpa_and_says_why():
    # PyTorch has no memory-efficient kernel for the CPU: a real failure of a real backend.
    q, k, v = tokens()
    with attention_backend("_native_efficient"):
        torch.testing.assert_close(attention(q, k, v).double(), by_definition(q, k, v), atol=1e-6, rtol=0)
        assert choose_backend("cpu", torch.float32, 32) == "native"
        assert "SDPA (_native_efficient does not work here:" in describe("cpu", torch.float32, 32)


def test_xformers_asked_for_on_a_cpu_gives_sdpa_and_says_why():
    pytest.importorskip("xformers.ops")
    with attention_backend("xformers"):
        assert choose_backend("cpu", torch.float32, 32) == "native"
        assert "xformers does not work here" in describe("cpu", torch.float32, 32)


def test_the_environment_variable_is_honoured(monkeypatch):
    monkeypatch.setenv("DIFFUSERS_ATTN_BACKEND", "_native_math")
    code = "import rpiae.attention as a; print(a.describe())"
    house = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=house, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "_native_math"


def test_native_is_a_wish_like_any_other(monkeypatch):
    """On a GPU, where xformers is what nobody has to ask for. There is none here: its probe is said to pass."""
    monkeypatch.setattr(module, "is_xformers_available", lambda: True)
    monkeypatch.setattr(module, "_probe", lambda *_: None)
    monkeypatch.setattr(module, "_race", lambda *_: (0.1, 0.1))
    monkeypatch.delenv("DIFFUSERS_ATTN_BACKEND", raising=False)
    monkeypatch.setattr(module, "_sdpa_is_asked_for", False)
    model = RPiAETransformer2DModel(in_channels=4, sample_size=4, hidden_size=16, num_layers=1, num_heads=2)
    try:
        assert choose_backend("cuda", torch.float16, 40) == "xformers"
        compiled = describe("cuda", torch.float16, 40, compiled=True)
        assert compiled == "xformers; steps compiled where they fit, with SDPA"
        model.set_attention_backend("native")
        assert choose_backend("cuda", torch.float16, 40) == "native"
        assert describe("cuda", torch.float16, 40, compiled=True) == "SDPA; steps compiled where they fit"
        model.reset_attention_backend()
        assert choose_backend("cuda", torch.float16, 40) == "xformers"
    finally:
        model.reset_attention_backend()
        module._choose.cache_clear()  # no later test shall think that xformers works


@pytest.mark.parametrize(("theirs", "chosen"), [(0.001, "xformers"), (0.0021, "xformers"), (0.003, "native")])
def test_the_faster_one_is_the_default(theirs, chosen, monkeypatch):
    monkeypatch.setattr(module, "is_xformers_available", lambda: True)
    monkeypatch.setattr(module, "_probe", lambda *_: None)
    monkeypatch.setattr(module, "_race", lambda *_: (theirs, 0.002))
    found = module._choose.__wrapped__(torch.device("cuda"), torch.float16, 64, module.NATIVE, False)
    assert found.backend.value == chosen
    assert found.reason == ("xformers is slower here" if chosen == "native" else "")


def test_kernels_are_timed_and_one_that_fails_never_wins(monkeypatch):
    monkeypatch.setattr(module, "RACE_SHAPE", (2, 8, 2))
    shape = torch.device("cpu"), torch.float32, 16
    theirs, ours = module._race(module.AttentionBackendName._NATIVE_MATH, *shape)
    assert 0 < theirs < math.inf and 0 < ours < math.inf
    theirs, ours = module._race(module.AttentionBackendName._NATIVE_EFFICIENT, *shape)  # there is none for CPUs
    assert ours < module.CLEARLY_FASTER * theirs


@pytest.mark.parametrize("backend", ["native", "_native_math"])
def test_compiles_without_a_graph_break(backend):
    q, k, v = tokens()
    torch.compiler.reset()
    with attention_backend(backend):
        out = torch.compile(attention, fullgraph=True, backend="aot_eager")(q, k, v)
    torch.testing.assert_close(out.double(), by_definition(q, k, v), atol=1e-6, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [32, 64])
def test_cuda_agrees_with_the_definition(dtype, size):
    q, k, v = (t.to("cuda", dtype) for t in tokens(size=size))
    tolerance = 1e-2 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(attention(q, k, v).double(), by_definition(q, k, v), atol=tolerance, rtol=0)
    chosen = choose_backend(q.device, dtype, size)
    assert chosen == "xformers" or "xformers" in describe(q.device, dtype, size)
