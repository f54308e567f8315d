"""Compiled steps: torch.compile for what runs at every step, made ready before anybody waits for it.

    compile_steps(pipe)      # once, when there is time: it takes about as long as some edits
    pipe(...)                # uses it wherever it fits, and never waits for a compiler

Only the blocks' work on the target is compiled; all blocks share one program. It serves every batch of two rows and
more, generation and editing alike. Whatever it does not fit (one row, another dtype) runs as it did before.

All compiling is done in one thread of a process: torch 2.10 ends with a segmentation fault in a second one.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .pipeline import RPiAEPipeline

MARK = "steps_are_compiled"
_compiling: threading.Thread | None = None  # the thread that compiled first
_lock, _inside, _before = threading.Lock(), 0, None  # how many calls use compiled steps; the stance before them


def compile_steps(pipe: RPiAEPipeline, backend: str = "inductor") -> None:
    """Compile the steps of a pipeline, on its device and in its transformer's format.

    Raises:
        ValueError: it does not work here (mostly: no C++ compiler); the pipeline is as it was before.
    """
    global _compiling
    transformer = pipe.transformer
    if is_compiled(transformer):
        return
    _compiling = _compiling or threading.current_thread()
    if _compiling is not threading.current_thread():
        raise ValueError(f"the steps cannot be compiled here: the thread {_compiling.name} did so before")
    programs = [torch.compile(block.target, backend=backend) for block in transformer.blocks]
    try:
        for block, program in zip(transformer.blocks, programs, strict=True):
            block.target = _for_any_batch(program)
        for count in (1, 2):  # two sizes: what lies behind a break in the graph learns that they vary
            pipe(["a grey square"] * count, num_inference_steps=1, guidance_scale=2.0, output_type="latent")
    except Exception as error:
        for block in transformer.blocks:
            vars(block).pop("target", None)
        cause = getattr(error, "inner_exception", error)  # torch puts words of its own around it
        first_line = " ".join(str(cause).strip().splitlines()[:1])
        raise ValueError(f"the steps cannot be compiled here: {type(cause).__name__}: {first_line}") from error
    for block, program in zip(transformer.blocks, programs, strict=True):
        block.target = program
    setattr(transformer, MARK, True)


def is_compiled(transformer: nn.Module) -> bool:
    """Whether a transformer's steps were compiled."""
    return MARK in vars(transformer)


@contextlib.contextmanager
def nothing_compiled_anew(transformer: nn.Module) -> Iterator[None]:
    """While it lasts, compiled steps are used where they fit, and what does not fit runs as it is.

    The compiler's stance is the whole process's: the first that comes sets it, the last that goes sets it back.
    """
    global _inside, _before
    if not is_compiled(transformer):
        yield
        return
    with _lock:
        _inside += 1
        if _inside == 1:
            _before = torch.compiler.set_stance("eager_on_recompile")  # in force from here on
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _before.__exit__(None, None, None)


def _for_any_batch(program: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The program, compiled at its first call for batches of any size."""

    def run(x: Tensor, modulation: Tensor, rope: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        for tensor in (x, keys, values):
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        return program(x, modulation, rope, keys, values)

    return run
