"""Training: samples a second of each task, eager against compiled, the share of the machine's peak, and the data.

    PYTHONPATH=. python tests/benchmarks/bench_training.py [--config NAME] [--stages NAME ...] [--batch N] [--workers N]
        [--output DIR] [--repeats N] [--quick]

A step is the loop's own, optimiser and average included, on random weights. It is one from the time when all that a
stage has is due (discriminator, adaptive weights), and its arithmetic is counted so, too. The peak is that of one large
matrix product in the stage's precision. The loader draws or reads batches and nothing else.

Data that a config reads are made up: class folders with pictures as large as ImageNet's, captioned pictures in shards,
edits in a table. A config of sticker scenes gets its diffusion stage on captions, too, "NAME-shards", and one without
classes gets a stage for them with a tiny transformer, "class-small". A quick run takes the smoke config and compiles
nothing.
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
from torchvision.models import vgg16

from rpiae import attention
from rpiae.autoencoder import AutoencoderRPiAE
from rpiae.lightning_dit import LightningDiT2DModel
from rpiae.metrics import LPIPS_BACKBONES
from rpiae.transformer import RPiAETransformer2DModel
from tests.train.data.files import picture, write_caption_shards, write_edit_table
from train.config import (
    AutoencoderStage,
    ClassConditionalStage,
    DiffusionStage,
    OptimizerSettings,
    RepresentationStage,
    StageSettings,
    TrainingConfig,
    load_config,
)
from train.cost import stage_cost
from train.data.scenes import warm_up
from train.data.settings import DataSettings, SourceSettings
from train.discriminator import DinoFeatures
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
SHARDS, PER_SHARD, EDITS, SIDE = 4, 16, 16, 512
SMALL_CLASS = "class-small"
SMALL_TRANSFORMER = {
    "hidden_size": 32, "num_layers": 2, "num_heads": 2, "feed_forward_size": 64, "num_classes": CLASSES,
    "time_frequencies": 8,
}  # fmt: skip
HEAD_WIDTH = 64  # of the attention that is asked whether xformers works


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__, repeats=5)
    made.add_argument("--config", default="stickers-256", help="a training config")
    made.add_argument("--stages", nargs="+", metavar="NAME", help="default: all")
    made.add_argument("--batch", type=int, metavar="N", help="samples of a step, in one part; default: the stage's own")
    made.add_argument(
        "--workers", type=int, help="processes of the loader, 0: the training process itself; default: the stage's own"
    )
    options = parse(made, arguments)
    config = load_config("smoke" if options.quick else options.config)
    table = Table("training", options)
    if not options.quick:
        warm_up()  # a run draws a look anew only once, so what counts is the loader that has them all
    with tempfile.TemporaryDirectory() as folder:
        config = with_files(config, Path(folder))
        for name in options.stages or config.stages:
            alone = in_full(config, name, Path(folder), options.batch)
            try:
                measure(table, alone, name, Path(folder), options)
            except torch.OutOfMemoryError:
                table.skip(name, f"{alone.stages[name].batch_size} samples a step do not fit the GPU's memory")
    table.finish()


def with_files(config: TrainingConfig, folder: Path) -> TrainingConfig:
    """The config with made-up files for the stages that read some, which encode them as they come, and with more such
    stages: scenes' on captions, and one for classes where there is none."""
    made = made_up(folder)
    stages, models = dict(config.stages), config.models
    for name, stage in config.stages.items():
        if getattr(stage, "data", None) is not None:
            sources = [made[one.kind].model_copy(update={"weight": one.weight}) for one in stage.data.sources]
            data = stage.data.model_copy(update={"sources": tuple(sources)})
            of_pictures = {"latents": None} if isinstance(stage, ClassConditionalStage) else {}
            stages[name] = stage.model_copy(update={"data": data, **of_pictures})
        elif isinstance(stage, DiffusionStage):
            captions = {"data": DataSettings(sources=(made["webdataset"],)), "readout": 0.0}  # which asks for scenes
            stages[f"{name}-shards"] = stage.model_copy(update=captions)
    if models.class_transformer is None and models.transformer is not None:
        latent = {name: models.transformer[name] for name in ("in_channels", "sample_size")}
        models = models.model_copy(update={"class_transformer": latent | SMALL_TRANSFORMER})
        stages[SMALL_CLASS] = ClassConditionalStage(
            task="class-conditional", samples=CLASSES * PER_CLASS, batch_size=8, accumulate=2, precision="no",
            optimizer=OptimizerSettings(lr=1e-3), data=DataSettings(sources=(made["folder"],)),
        )  # fmt: skip
    return config.model_copy(update={"models": models, "stages": stages})


def made_up(folder: Path) -> dict[str, SourceSettings]:
    """Class folders, captioned pictures in shards, and a table of edits, by the kind of source."""
    classes, shards, table = folder / "classes", folder / "shards", folder / "edits.parquet"
    for number in range(CLASSES):
        (classes / str(number)).mkdir(parents=True)
        for i in range(PER_CLASS):
            picture(PER_CLASS * number + i, *CLASS_SIZE).save(classes / str(number) / f"{i}.jpg")
    write_caption_shards(shards, SHARDS, PER_SHARD, SIDE)
    write_edit_table(table, EDITS, side=SIDE)
    captions = {"caption": ("caption_llava", "caption_llava_short")}
    return {
        "folder": SourceSettings(kind="folder", path=str(classes)),
        "webdataset": SourceSettings(kind="webdataset", path=str(shards), columns=captions),
        "table": SourceSettings(kind="table", path=str(table)),
    }


def in_full(config: TrainingConfig, name: str, folder: Path, batch: int | None) -> TrainingConfig:
    """The config with all of a stage's losses due from its first step on, and with random weights for the networks that
    judge; `batch`: other samples a step."""
    stage = config.stages[name]
    changed: dict[str, object] = {} if batch is None else {"batch_size": batch, "accumulate": 1}
    if isinstance(stage, AutoencoderStage):
        changed |= {"pivot_constant_steps": 0, "gan_from": 0}
        if stage.discriminator is not None:
            weights, network = folder / f"{name}-dino.pth", DinoFeatures(stage.discriminator.network).network
            network.init_weights()  # it comes without, since a file's are expected
            torch.save(network.state_dict(), weights)
            changed["discriminator"] = stage.discriminator.model_copy(update={"weights": weights, "learns_from": 0})
        if stage.perceptual and stage.perceptual_network == "lpips-vgg":
            put_vgg(folder / "hub")
    return config.model_copy(update={"stages": config.stages | {name: stage.model_copy(update=changed)}})


def put_vgg(hub: Path) -> None:
    """Random weights for LPIPS, in a torch hub's folder that is this process's from now on."""
    file = hub / "checkpoints" / LPIPS_BACKBONES["vgg"]
    if not file.is_file():
        file.parent.mkdir(parents=True)
        torch.save(vgg16(weights=None).state_dict(), file)
        torch.hub.set_dir(str(hub))


def period(stage: StageSettings) -> int:
    """Steps that are measured together: an adaptive weight is due in one of them."""
    adaptive = isinstance(stage, AutoencoderStage) and stage.pivot and stage.pivot_weighting == "adaptive"
    return stage.pivot_every if adaptive else 1


def measure(table: Table, config: TrainingConfig, name: str, folder: Path, options: argparse.Namespace) -> None:
    stage = config.stages[name]
    workers = stage.workers if options.workers is None else options.workers
    task = make_task(config, name)
    batches = loaded(task, stage, workers)
    batch = next(batches)
    flops = stage_cost(with_texts(config, task, batch), name).flops_per_sample
    eager, compiled = (stage.model_copy(update={"compile": one}) for one in (False, True))
    works = {"loader": lambda: next(batches), "eager": stepper(config, name, folder / f"{name}-eager", batch, eager)}
    if not options.quick:
        works["compiled"] = stepper(config, name, folder / f"{name}-compiled", batch, compiled)
    if device() == "cuda":
        works["eager with SDPA"] = with_sdpa(works["eager"])
    side = QUICK_SIDE if options.quick else GPU_SIDE if device() == "cuda" else CPU_SIDE
    dtype = torch.bfloat16 if stage.precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device(), dtype=dtype) for _ in range(2))
    works["product"] = lambda: a @ b
    took = side_by_side(works, options.repeats)

    samples = {work: stage.batch_size * (1 if work == "loader" else period(stage)) for work in took}
    rates = {work: samples[work] / seconds for work, seconds in took.items() if work != "product"}
    what = f"{name}, {stage.batch_size} samples a step"
    if "compiled" in rates:
        table.ratio(f"{what}: compiled / eager", rates["compiled"], rates["eager"], "samples/s")
    else:
        table.skip(f"{what}: compiled / eager", "a quick run compiles nothing")
    kernels(table, f"{name}, eager: xformers / SDPA", rates, stage)
    fastest = max(("eager", "compiled"), key=lambda work: rates.get(work, 0.0))
    arithmetic = flops * rates[fastest] / 1e12
    peak = 2 * side**3 / took["product"] / 1e12
    said = str(dtype).removeprefix("torch.")
    table.ratio(f"{name}, {fastest} step / matrix product, {said}", arithmetic, peak, "TFLOP/s")
    # A tiny transformer's step is no measure of what a loader has to give.
    least = None if name == SMALL_CLASS else LOADER_GOAL
    table.ratio(f"{name}, loader / {fastest} step", rates["loader"], rates[fastest], "samples/s", least=least,
                note=f"{workers} workers")  # fmt: skip


def with_texts(config: TrainingConfig, task: Task, batch: list[dict]) -> TrainingConfig:
    """The config with room for no more than the words of a batch, since the text encoder reads no further."""
    if not isinstance(task, DiffusionTask):
        return config
    texts = [text for part in batch for column in part["texts"] for text in column]
    longest = min(task.text_encoder.config.max_tokens, max(map(task.text_encoder.count_tokens, texts)))
    encoder = config.models.text_encoder | {"max_tokens": longest}
    return config.model_copy(update={"models": config.models.model_copy(update={"text_encoder": encoder})})


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
    config: TrainingConfig, name: str, folder: Path, parts: list[dict], stage: StageSettings
) -> Callable[[], object]:
    """Steps of the training loop, on one batch again and again: as many as `period` says."""
    task = make_task(config, name)
    loop = Loop(task, stage, folder, config.seed)
    task.to(loop.accelerator.device)
    loop._prepare()
    if stage.compile:
        task.compile()
    task.train()
    parts = send_to_device(parts, loop.accelerator.device)
    return lambda: [loop._step([dict(part) for part in parts]) for _ in range(period(stage))]  # it adds to the parts


if __name__ == "__main__":
    main()
