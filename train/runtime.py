"""Process set-up: threads, logging, seeds; and what several processes ask of each other."""

import logging
import os

import torch
from accelerate.utils import get_int_from_env, reduce
from torch import Tensor, nn

from .config import TrainingConfig

# What Accelerate's launcher sets for ways to share out a model, which it follows on GPUs alone.
OTHER_PARALLELISM = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
SIZES_OF_WORLD = ["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"]


def set_up(config: TrainingConfig) -> None:
    """Threads, logging and the global seed (models' random weights; data and noise have seeds of their own)."""
    _check_launch()
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("train").setLevel(logging.INFO if is_main_process() else logging.WARNING)
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def tear_down() -> None:
    """Leave the group of processes together, at the end of a run that went well."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _check_launch() -> None:
    """ValueError for starts that would not do what was asked for."""
    for name, kind in OTHER_PARALLELISM.items():
        if os.environ.get(name, "").lower() in ("1", "true", "yes"):
            raise not_data_parallel(kind)
    # On a machine without GPUs `accelerate launch --num_processes 2` starts a single process, without a word.
    simple = "ACCELERATE_USE_CPU" in os.environ  # set by Accelerate's launcher of one process alone
    if simple and "MASTER_ADDR" in os.environ and process_count() == 1:
        raise ValueError(
            "accelerate launch was asked for several processes and started one, as it does without GPUs; add "
            "--multi_gpu, which on such a machine means several processes on the CPU: "
            "accelerate launch --multi_gpu --num_processes 2 -m train ..."
        )


def not_data_parallel(kind: str) -> ValueError:
    return ValueError(
        f"training is data-parallel, not {kind}: start it with accelerate launch --multi_gpu, or choose that in "
        "accelerate config (docs/scale.md says why)"
    )


def process_count() -> int:
    """How many processes train together; also before there is an Accelerator."""
    return get_int_from_env(SIZES_OF_WORLD, 1)


def process_number() -> int:
    """This process's number among all; also before there is an Accelerator."""
    return get_int_from_env(["RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"], 0)


def is_main_process() -> bool:
    """Whether this process writes and speaks."""
    return process_number() == 0


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of a tensor over all training processes, without a gradient; one process gets its own back."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not distributed or torch.distributed.get_world_size() == 1:
        return values
    return reduce(values.detach(), "mean")


def device() -> str:
    """Where to run: the GPU when there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def compile_methods(module: nn.Module, *names: str) -> None:
    """Compile methods of one module in place. (`Module.compile` reaches `forward` alone.)"""
    # A graph that adaptive weights walk twice must keep its buffers.
    torch._functorch.config.donated_buffer = False
    for name in names:
        setattr(module, name, torch.compile(getattr(module, name)))
