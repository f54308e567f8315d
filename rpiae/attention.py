"""Which attention kernel runs: xformers on CUDA where it works and is as fast as PyTorch's SDPA, which runs elsewhere.

Names of backends are diffusers' (`AttentionBackendName`): "native" is SDPA. A backend that a person asks for,
by the environment variable DIFFUSERS_ATTN_BACKEND, by `model.set_attention_backend(...)` or by diffusers'
context manager `attention_backend(...)`, is used wherever its probe passes, for all models of the process as in
diffusers. "native" turns xformers off, but for the context manager's: that looks as if nobody had asked. There are no
masks: every context has the same length (see `transformer.py`).

Shapes: B pictures, N queries, M keys and values, D numbers per head; tokens before heads, as in diffusers.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _AttentionBackendRegistry,
    dispatch_attention_fn,
)
from diffusers.utils import is_xformers_available
from diffusers.utils.constants import DIFFUSERS_ATTN_BACKEND

logger = logging.getLogger(__name__)

NATIVE = AttentionBackendName.NATIVE
XFORMERS = AttentionBackendName.XFORMERS

# The probe's inputs are standard normal, so outputs and gradients are of order one; half precision rounds at
# about 1e-2 there, and a kernel that reads memory in the wrong order is off by about 1.
PROBE_TOLERANCE = 0.1

# The default is the faster one, timed at a shape (B, N, heads, without D) at which the kernels count and not Python;
# SDPA must win by a tenth, so that of two alike the same is taken every time.
RACE_SHAPE, RACE_ROUNDS, RACE_CALLS, CLEARLY_FASTER = (64, 256, 8), 5, 20, 0.9

# Queries times keys up to which `_products` holds all scores in memory (1025 x 1025 was the largest measured).
PRODUCTS_SIZE = 2**21


_sdpa_is_asked_for = "DIFFUSERS_ATTN_BACKEND" in os.environ  # by name, not as what diffusers has anyway


@dataclass(frozen=True)
class Choice:
    """A backend's name and, where it is not the wanted one, why."""

    backend: AttentionBackendName
    reason: str = ""


class AttentionChoice:
    """For a diffusers model: `set_attention_backend("native")` is a wish like any other."""

    def set_attention_backend(self, backend: str) -> None:
        global _sdpa_is_asked_for
        super().set_attention_backend(backend)
        _sdpa_is_asked_for = backend.lower() == NATIVE.value

    def reset_attention_backend(self) -> None:
        """As if nobody had asked for a backend by this method."""
        global _sdpa_is_asked_for
        super().reset_attention_backend()
        _AttentionBackendRegistry.set_active_backend(AttentionBackendName(DIFFUSERS_ATTN_BACKEND))
        _sdpa_is_asked_for = "DIFFUSERS_ATTN_BACKEND" in os.environ


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Scaled dot-product attention without a mask.

    q: (B, N, heads, D); k and v: (B, M, heads, D), one dtype and device. Returns (B, N, heads, D).
    """
    if q.device.type != "meta" and torch.is_autocast_enabled(q.device.type):
        # SDPA would follow autocast by itself; every other way wants one half-precision type from the caller.
        dtype = torch.get_autocast_dtype(q.device.type)
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    wanted = _AttentionBackendRegistry.get_active_backend()[0]
    if wanted == NATIVE and (q.device.type != "cuda" or torch.compiler.is_compiling()):
        # The everyday path on a CPU costs two comparisons. Compiled code stays with SDPA too: inductor sees
        # through it, while xformers picks its operator in Python, which may break the graph.
        return _sdpa(q, k, v)
    backend = _backend_for(q.device, q.dtype, q.shape[-1], wanted, _sdpa_is_asked_for)
    if backend == NATIVE:
        return _sdpa(q, k, v)
    return dispatch_attention_fn(q, k, v, backend=backend)


def choose_backend(device: torch.device | str, dtype: torch.dtype, head_dim: int) -> str:
    """The name of the backend that `attention` uses outside `torch.compile` for tensors of this kind.

    The first call for a device, dtype and head size runs a small probe; later calls read the answer.
    """
    wanted = _AttentionBackendRegistry.get_active_backend()[0]
    return _choose(torch.device(device), dtype, head_dim, wanted, _sdpa_is_asked_for).backend.value


def describe(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, head_dim: int = 64, compiled: bool = False
) -> str:
    """One line for `info` and recipes: the backend, and why another one is not used if one was wanted. `compiled`: of a
    transformer whose steps are."""
    wanted = _AttentionBackendRegistry.get_active_backend()[0]
    choice = _choose(torch.device(device), dtype, head_dim, wanted, _sdpa_is_asked_for)
    products = torch.device(device).type == "cpu" and dtype == torch.bfloat16
    native = "batched products, SDPA where they would be large" if products else "SDPA"
    name = native if choice.backend == NATIVE else choice.backend.value
    said = f"{name} ({choice.reason})" if choice.reason else name
    if compiled:
        said += "; steps compiled where they fit"
        said += ", with SDPA" if choice.backend != wanted == NATIVE else ""
    return said


def _sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[1] * k.shape[1] <= PRODUCTS_SIZE:
        return _products(q, k, v)
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2)


def _products(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attention as two batched products, for bfloat16 on a CPU: oneDNN multiplies at several times the speed of SDPA's
    CPU kernel (measured at 64 x 192 tokens: 1.7 times forward, 4 times backward; at 256 x 256: 2.5 times)."""
    batch, _, heads, width = q.shape
    q, k, v = (x.transpose(1, 2).reshape(batch * heads, -1, width) for x in (q, k, v))
    return _weighted(q, k, v).view(batch, heads, -1, width).transpose(1, 2)


@torch.compiler.disable  # inductor's own loops around the products are slower than PyTorch's softmax
def _weighted(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    unused = q.new_empty(()).expand(len(q), q.shape[1], k.shape[1])
    scores = torch.baddbmm(unused, q, k.transpose(1, 2), beta=0, alpha=q.shape[-1] ** -0.5)
    return torch.bmm(torch.softmax(scores, dim=-1), v)


@torch.compiler.assume_constant_result
def _backend_for(
    device: torch.device, dtype: torch.dtype, head_dim: int, wanted: AttentionBackendName, asked: bool
) -> AttentionBackendName:
    # Dynamo cannot trace a probe; it calls this once while tracing and keeps the answer.
    return _choose(device, dtype, head_dim, wanted, asked).backend


@functools.cache
def _choose(
    device: torch.device, dtype: torch.dtype, head_dim: int, wanted: AttentionBackendName, asked: bool
) -> Choice:
    """`asked`: whether "native", where it is wanted, is somebody's wish."""
    if by_default := wanted == NATIVE:
        if asked or device.type != "cuda":
            return Choice(NATIVE)
        if not is_xformers_available():
            return Choice(NATIVE, "xformers is not installed")
        wanted = XFORMERS
    problem = _probe(wanted, device, dtype, head_dim)
    if problem is not None:
        reason = f"{wanted.value} does not work here: {problem}"
        logger.warning("Attention on %s, %s, head size %d: SDPA is used; %s", device, dtype, head_dim, reason)
        return Choice(NATIVE, reason)
    if not by_default:
        return Choice(wanted)
    theirs, ours = _race(wanted, device, dtype, head_dim)
    compared = f"{wanted.value} takes {1e3 * theirs:.3f} ms where SDPA takes {1e3 * ours:.3f} ms"
    logger.info("Attention on %s, %s, head size %d: %s", device, dtype, head_dim, compared)
    return Choice(NATIVE, f"{wanted.value} is slower here") if ours < CLEARLY_FASTER * theirs else Choice(wanted)


def _race(
    backend: AttentionBackendName, device: torch.device, dtype: torch.dtype, head_dim: int
) -> tuple[float, float]:
    """Seconds of one forward call, by the backend and by SDPA: medians of rounds in which both take their turn. A
    backend that fails at this size takes for ever."""
    q, k, v = (torch.ones(*RACE_SHAPE, head_dim, device=device, dtype=dtype) for _ in range(3))
    calls = functools.partial(dispatch_attention_fn, backend=backend), _sdpa
    took: tuple[list[float], list[float]] = [], []
    try:
        with torch.inference_mode():
            for _ in range(1 + RACE_ROUNDS):  # the first only warms up
                for call, times in zip(calls, took, strict=True):
                    times.append(_seconds(lambda call=call: call(q, k, v), device))
    except Exception as error:
        logger.warning("%s failed at %s: %s", backend.value, tuple(q.shape), error)
        return math.inf, 0.0
    return statistics.median(took[0][1:]), statistics.median(took[1][1:])


def _seconds(call: Callable[[], torch.Tensor], device: torch.device) -> float:
    """Of one of several calls, to their end on a GPU."""
    settle = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    settle()
    start = time.perf_counter()
    for _ in range(RACE_CALLS):
        call()
    settle()
    return (time.perf_counter() - start) / RACE_CALLS


def _probe(backend: AttentionBackendName, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Run the backend forward and backward on a small input; None, or what went wrong in one line.

    Kernels fail late and each in its own way (a missing operator, a GPU too new for the wheel, wrong
    numbers), so any exception counts, and the results are held against SDPA's.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 16, 2, head_dim), (2, 24, 2, head_dim), (2, 24, 2, head_dim)]
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            inputs = [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes]
            out = dispatch_attention_fn(*inputs, backend=backend)
            expected = _sdpa(*inputs)
            found = [out, *torch.autograd.grad(out.float().sum(), inputs)]
            wanted = [expected, *torch.autograd.grad(expected.float().sum(), inputs)]
    except Exception as error:
        first_line = str(error).strip().splitlines()[:1]
        return f"{type(error).__name__}: {' '.join(first_line).rstrip(':')}"
    off = max((a.float() - b.float()).abs().max().item() for a, b in zip(found, wanted, strict=True))
    return None if off <= PROBE_TOLERANCE else f"its numbers differ from SDPA's by up to {off:.2g}"
