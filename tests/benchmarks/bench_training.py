"""Training: samples a second of each task, eager against compiled, the share of the machine's peak, and the data.

    PYTHONPATH=. python tests/benchmarks/bench_training.py [--config NAME] [--stages NAME ...] [--workers N]
        [--output DIR] [--repeats N] [--quick]

A step is the loop's own, optimiser and average included, on random weights. The peak is that of one large matrix
product in the stage's precision. The loader draws or reads batches and nothing else. A quick run takes the smoke config
with a stage for classes and compiles nothing. Class folders are made up, with pictures as large as ImageNet's.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path

import torch
from accelerate.utils import send_to_device
from side_by_side import Table, device, parse, parser, side_by_side
from torch.utils.data import DataLoader, Subset

from rpiae import attention
from rpiae.autoencoder import AutoencoderRPiAE
from rpiae.lightning_dit import LightningDiT2DModel
from rpiae.transformer import RPiAETransformer2DModel
from tests.train.data.files import picture
from train.config import (
    AutoencoderStage,
    ClassConditionalStage,
    DiffusionStage,
    RepresentationStage,
    StageSettings,
    TrainingConfig,
    load_config,
)
from train.cost import stage_cost
from train.data.scenes import warm_up
from train.data.settings import SourceSettings
from train.loop import Loop
from train.tasks.autoencoder import AutoencoderTask
from train.tasks.class_conditional import ClassConditionalTask
from train.tasks.diffusion import DiffusionTask
from train.tasks.representation import RepresentationTask
from train.tasks.task import Task

# The data must never be what training waits for, also where a GPU is faster than the one that it was measured on.
LOADER_GOAL = 5.0
CPU_SIDE, GPU_SIDE, QUICK_SIDE = 2048, 8192, 256
CLASSES, PER_CLASS, CLASS_SIZE = 4, 16, (500, 375)
QUICK_CLASSES = (
    "models.class_transformer={in_channels: 8, sample_size: 16, hidden_size: 32, num_layers: 2, num_heads: 2, "
    "feed_forward_size: 64, num_classes: 4, time_frequencies: 8}",
    "stages.class={task: class-conditional, samples: 8, batch_size: 4, accumulate: 2, precision: 'no', "
    "optimizer: {lr: 1.0e-3}, data: {sources: [{kind: folder, path: none}]}}",
)
HEAD_WIDTH = 64  # of the attention that is asked whether xformers works


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__, repeats=5)
    made.add_argument("--config", default="stickers-256", help="a training config")
    made.add_argument("--stages", nargs="+", metavar="NAME", help="default: all")
    made.add_argument(
        "--workers", type=int, help="processes of the loader, 0: the training process itself; default: the stage's own"
    )
    options = parse(made, arguments)
    config = load_config("smoke", list(QUICK_CLASSES)) if options.quick else load_config(options.config)
    table = Table("training", options)
    if not options.quick:
        warm_up()  # a run draws a look anew only once, so what counts is the loader that has them all
    with tempfile.TemporaryDirectory() as folder:
        config = with_classes(config, Path(folder))
        for name in options.stages or config.stages:
            measure(table, config, name, Path(folder), options)
    table.finish()


def with_classes(config: TrainingConfig, folder: Path) -> TrainingConfig:
    """The config with made-up pictures for its class-conditional stages, which encode them as they come."""
    stages = {name: stage for name, stage in config.stages.items() if isinstance(stage, ClassConditionalStage)}
    if not stages:
        return config
    for number in range(CLASSES):
        (folder / "classes" / str(number)).mkdir(parents=True)
        for i in range(PER_CLASS):
            picture(PER_CLASS * number + i, *CLASS_SIZE).save(folder / "classes" / str(number) / f"{i}.jpg")
    sources = (SourceSettings(kind="folder", path=str(folder / "classes")),)
    for name, stage in stages.items():
        data = stage.data.model_copy(update={"sources": sources})
        stages[name] = stage.model_copy(update={"data": data, "latents": None})
    return config.model_copy(update={"stages": config.stages | stages})


def measure(table: Table, config: TrainingConfig, name: str, folder: Path, options: argparse.Namespace) -> None:
    stage = config.stages[name]
    workers = stage.workers if options.workers is None else options.workers
    batches = loaded(make_task(config, name), stage, workers)
    works = {"loader": lambda: next(batches), "eager": stepper(config, name, folder / f"{name}-eager", next(batches))}
    if not options.quick:
        compiled = stage.model_copy(update={"compile": True})
        works["compiled"] = stepper(config, name, folder / f"{name}-compiled", next(batches), compiled)
    if device() == "cuda":
        works["eager with SDPA"] = with_sdpa(works["eager"])
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
    kernels(table, f"{name}, eager: xformers / SDPA", rates, stage)
    fastest = max(("eager", "compiled"), key=lambda work: rates.get(work, 0.0))
    arithmetic = stage_cost(config, name).flops_per_sample * rates[fastest] / 1e12
    peak = 2 * side**3 / took["product"] / 1e12
    said = str(dtype).removeprefix("torch.")
    table.ratio(f"{name}, {fastest} step / matrix product, {said}", arithmetic, peak, "TFLOP/s")
    table.ratio(f"{name}, loader / {fastest} step", rates["loader"], rates[fastest], "samples/s", least=LOADER_GOAL,
                note=f"{workers} workers")  # fmt: skip


def with_sdpa(step: Callable[[], object]) -> Callable[[], None]:
    """The step with SDPA where xformers would be taken; what one model asks for is for all of the process."""
    asking = RPiAETransformer2DModel(in_channels=4, sample_size=4, hidden_size=16, num_layers=1, num_heads=2)

    def run() -> None:
        asking.set_attention_backend("native")
        step()
        asking.reset_attention_backend()

    return run


def kernels(table: Table, what: str, rates: dict[str, float], stage: StageSettings) -> None:
    if "eager with SDPA" not in rates:
        table.skip(what)
        return
    kind = device(), torch.bfloat16 if stage.precision == "bf16" else torch.float32, HEAD_WIDTH
    if attention.choose_backend(*kind) != attention.XFORMERS.value:
        table.skip(what, attention.describe(*kind))
        return
    table.ratio(what, rates["eager"], rates["eager with SDPA"], "samples/s")


def make_task(config: TrainingConfig, name: str) -> Task:
    """A stage's task on models with random weights."""
    torch.manual_seed(0)
    stage, models = config.stages[name], config.models
    if isinstance(stage, RepresentationStage):
        return RepresentationTask(config, stage)
    first = next((n for n, s in config.stages.items() if isinstance(s, AutoencoderStage)), None)
    bridge = None if name == first else models.bridge
    vae = AutoencoderRPiAE(models.encoder, models.decoder, bridge, models.image_size)
    if isinstance(stage, AutoencoderStage):
        return AutoencoderTask(vae, stage, config.seed)
    if isinstance(stage, ClassConditionalStage):
        return ClassConditionalTask(stage, vae, LightningDiT2DModel(**models.class_transformer), config.seed)
    assert isinstance(stage, DiffusionStage)
    return DiffusionTask(config, stage, vae, RPiAETransformer2DModel(**models.transformer))


def loaded(task: Task, stage: StageSettings, workers: int) -> Iterator[list[dict]]:
    """Batches in their parts, as the loop's loader gives them, without end."""
    for _ in count():
        parts = iter(DataLoader(
            Subset(task.dataset, range(len(task.dataset))), batch_size=stage.batch_size // stage.accumulate,
            drop_last=True, num_workers=workers, pin_memory=device() == "cuda",
        ))  # fmt: skip
        while len(batch := list(islice(parts, stage.accumulate))) == stage.accumulate:
            yield batch


def stepper(
    config: TrainingConfig, name: str, folder: Path, parts: list[dict], stage: StageSettings | None = None
) -> Callable[[], object]:
    """Steps of the training loop, on one batch again and again."""
    stage = stage or config.stages[name]
    task = make_task(config, name)
    loop = Loop(task, stage, folder, config.seed)
    task.to(loop.accelerator.device)
    loop._prepare()
    if stage.compile:
        task.compile()
    task.train()
    parts = send_to_device(parts, loop.accelerator.device)
    return lambda: loop._step([dict(part) for part in parts])  # the loop adds to them


if __name__ == "__main__":
    main()
