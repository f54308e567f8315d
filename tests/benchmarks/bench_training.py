"""Training: samples a second of each task, eager against compiled, the share of the machine's peak, and the data.

    PYTHONPATH=. python tests/benchmarks/bench_training.py [--config NAME] [--stages NAME ...] [--workers N]
        [--output DIR] [--repeats N] [--quick]

A step is the loop's own, optimiser and average included, on random weights. The peak is that of one large matrix
product in the stage's precision. The loader draws or reads batches and nothing else. A quick run takes the smoke config
and compiles nothing. The class-conditional task has no pictures here.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import torch
from accelerate.utils import send_to_device
from side_by_side import Table, device, parse, parser, side_by_side
from torch.utils.data import DataLoader, Subset

from rpiae.autoencoder import AutoencoderRPiAE
from rpiae.transformer import RPiAETransformer2DModel
from train.config import (
    AutoencoderStage,
    ClassConditionalStage,
    DiffusionStage,
    RepresentationStage,
    StageSettings,
    load_config,
)
from train.cost import stage_cost
from train.loop import Loop
from train.tasks.autoencoder import AutoencoderTask
from train.tasks.diffusion import DiffusionTask
from train.tasks.representation import RepresentationTask
from train.tasks.task import Task

# The data must never be what training waits for, also where a GPU is faster than the one that it was measured on.
LOADER_GOAL = 5.0
CPU_SIDE, GPU_SIDE, QUICK_SIDE = 2048, 8192, 256


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__, repeats=5)
    made.add_argument("--config", default="stickers-256", help="a training config")
    made.add_argument("--stages", nargs="+", metavar="NAME", help="default: all")
    made.add_argument("--workers", type=int, default=0, help="processes of the loader; 0: the training process itself")
    options = parse(made, arguments)
    config = load_config("smoke" if options.quick else options.config)
    table = Table("training", options)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.stages or config.stages:
            if isinstance(config.stages[name], ClassConditionalStage):
                table.skip(name, "its pictures and latents are somebody's own: train a while and read samples/s")
                continue
            measure(table, config, name, Path(folder), options)
    table.finish()


def measure(table: Table, config, name: str, folder: Path, options: argparse.Namespace) -> None:
    stage = config.stages[name]
    batches = loaded(make_task(config, name), stage, options.workers)
    works = {"loader": lambda: next(batches), "eager": stepper(config, name, folder / f"{name}-eager", next(batches))}
    if not options.quick:
        compiled = stage.model_copy(update={"compile": True})
        works["compiled"] = stepper(config, name, folder / f"{name}-compiled", next(batches), compiled)
    side = QUICK_SIDE if options.quick else GPU_SIDE if device() == "cuda" else CPU_SIDE
    dtype = torch.bfloat16 if stage.precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device(), dtype=dtype) for _ in range(2))
    works["product"] = lambda: a @ b
    took = side_by_side(works, options.repeats)

    rates = {work: stage.batch_size / seconds for work, seconds in took.items() if work != "product"}
    what = f"{name}, {stage.batch_size} samples a step"
    if "compiled" in rates:
        table.ratio(f"{what}: compiled / eager", rates["compiled"], rates["eager"], "samples/s")
    else:
        table.skip(f"{what}: compiled / eager", "a quick run compiles nothing")
    fastest = max(("eager", "compiled"), key=lambda work: rates.get(work, 0.0))
    arithmetic = stage_cost(config, name).flops_per_sample * rates[fastest] / 1e12
    peak = 2 * side**3 / took["product"] / 1e12
    said = str(dtype).removeprefix("torch.")
    table.ratio(f"{name}, {fastest} step / matrix product, {said}", arithmetic, peak, "TFLOP/s")
    table.ratio(f"{name}, loader / {fastest} step", rates["loader"], rates[fastest], "samples/s", least=LOADER_GOAL,
                note=f"{options.workers} workers")  # fmt: skip


def make_task(config, name: str) -> Task:
    """A stage's task on models with random weights."""
    torch.manual_seed(0)
    stage, models = config.stages[name], config.models
    if isinstance(stage, RepresentationStage):
        return RepresentationTask(config, stage)
    first = next(n for n, s in config.stages.items() if isinstance(s, AutoencoderStage))
    bridge = None if name == first else models.bridge
    vae = AutoencoderRPiAE(models.encoder, models.decoder, bridge, models.image_size)
    if isinstance(stage, AutoencoderStage):
        return AutoencoderTask(vae, stage, config.seed)
    assert isinstance(stage, DiffusionStage)
    return DiffusionTask(config, stage, vae, RPiAETransformer2DModel(**models.transformer))


def loaded(task: Task, stage: StageSettings, workers: int) -> Iterator[dict]:
    """Batches as the loop's loader gives them, without end."""
    for _ in count():
        yield from DataLoader(
            Subset(task.dataset, range(len(task.dataset))), batch_size=stage.batch_size, drop_last=True,
            num_workers=workers, pin_memory=device() == "cuda",
        )  # fmt: skip


def stepper(config, name: str, folder: Path, batch: dict, stage: StageSettings | None = None) -> Callable[[], object]:
    """Steps of the training loop, on one batch again and again."""
    stage = stage or config.stages[name]
    task = make_task(config, name)
    loop = Loop(task, stage, folder, config.seed)
    task.to(loop.accelerator.device)
    loop._prepare()
    if stage.compile:
        task.compile()
    task.train()
    batch = send_to_device(batch, loop.accelerator.device)
    return lambda: loop._step([batch])


if __name__ == "__main__":
    main()
