"""Pictures of a checkpoint in the layouts that the official scorers of GenEval, DPG-Bench, GEdit-Bench and ADM read.

    python -m train export geneval evaluation_metadata.jsonl out/geneval --checkpoint DIR
    python -m train export dpg ELLA/dpg_bench/prompts out/dpg --checkpoint DIR
    python -m train export gedit hf:stepfun-ai/GEdit-Bench out/gedit --checkpoint DIR --model rpiae
    python -m train export classes out/classes --checkpoint DIR [--weak DIR --guidance 2.05]   # and out/classes.npz

By `accelerate launch -m train export ...` several processes share the work. How pictures are made, found again and held
to what made them: `painting`.
"""

import argparse
import hashlib
import json
import shlex
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState

from rpiae import ClassConditionalPipeline, LightningDiT2DModel, RPiAEPipeline
from rpiae.class_conditional import SCHEDULES
from rpiae.loading import resolve
from rpiae.recipe import folder_sha256

from .benchmarks import LANGUAGES, PICTURES, dpg, gedit, geneval, shortened
from .class_samples import archive, classes, cut
from .painting import Item, Paint, beside, check, claim, paint_all, tidy
from .samples import PROTOCOL

PATIENCE = timedelta(days=1)  # of processes that are done with their share


def main(arguments: list[str]) -> None:
    options = _parser().parse_args(arguments)
    _check_numbers(options)
    # Without `cpu` each of several processes on a machine without GPUs believes that it is alone.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    by_class = options.benchmark == "classes"
    pipe, settings, paint = (_by_class if by_class else _by_prompt)(options, state.device)
    pipe.set_progress_bar_config(disable=True)
    out = options.out.resolve()
    folder = out / options.model if options.benchmark == "gedit" else out  # models share GEdit-Bench's
    items = _items(options, out, pipe)
    asked = {item.key: (item.prompt, item.line) for item in items}
    identity = {
        "benchmark": options.benchmark, "checkpoint": folder_sha256(resolve(options.checkpoint)), "seed": options.seed,
        **settings,
        "labels" if by_class else "prompts": hashlib.sha256(json.dumps(asked).encode()).hexdigest(),
    }  # fmt: skip
    if state.is_main_process:
        claim(folder, identity)
    state.wait_for_everyone()
    check(folder, identity)
    scoring, packed = _next(options, out, pipe.vae.config.image_size), beside(folder, ".npz")
    if by_class and packed.is_file():  # whole, or it would not be there; the pictures themselves may be gone
        if state.is_main_process:
            print(f"{packed} is there, of these very settings: nothing is painted. {scoring}")
        return
    items, shorter = (items, 0) if by_class else shortened(items, pipe.text_encoder)
    own = items[state.process_index :: state.num_processes]
    paint_all(own, paint, folder, options.seed, options.batch, shown=state.is_main_process)
    state.wait_for_everyone()
    if state.is_main_process:
        tidy(folder)
        if by_class:
            archive(items, packed)
        if shorter:
            slots = pipe.text_encoder.config.max_tokens
            print(f"{shorter} of {len(items)} prompts lost their ends: this model reads {slots} word pieces.")
        print(f"{len(items)} files in {out}. {scoring}")


def _check_numbers(options: argparse.Namespace) -> None:
    for name in ("batch", "pictures", "count"):
        if getattr(options, name, 1) < 1:
            raise ValueError(f"--{name} is {getattr(options, name)}; give 1 or more")
    if getattr(options, "weak", None) and options.guidance_scale in (None, 1):
        raise ValueError("--weak guides nothing at a guidance scale of 1; give --guidance too, the authors' is 2.05")


def _by_prompt(options: argparse.Namespace, device: torch.device) -> tuple[RPiAEPipeline, dict, Paint]:
    """A pipeline, what is asked of it beside prompts and seeds, and how it paints."""
    pipe = RPiAEPipeline.from_pretrained(options.checkpoint).to(device)
    settings = {"num_inference_steps": options.steps, "guidance_scale": options.guidance_scale}
    settings["image_guidance_scale"] = options.image_guidance_scale

    def paint(prompts, generators, sources):
        return pipe(prompt=prompts, image=sources, generator=generators, **settings).images

    return pipe, settings, paint


def _by_class(options: argparse.Namespace, device: torch.device) -> tuple[ClassConditionalPipeline, dict, Paint]:
    """The same by class. What is left out is as the pipeline has it: the authors' grid of times, without guidance."""
    pipe = ClassConditionalPipeline.from_pretrained(options.checkpoint).to(device)
    settings = {
        "num_inference_steps": options.steps, "guidance_scale": options.guidance_scale,
        "guidance_interval": options.interval, "time_shift": options.time_shift, "schedule": options.schedule,
    }  # fmt: skip
    settings = {name: value for name, value in settings.items() if value is not None}
    weak = None
    if options.weak:
        home = resolve(options.weak)
        weak = LightningDiT2DModel.from_pretrained(home / "transformer" if (home / "transformer").is_dir() else home)
        weak = weak.to(device)

    def paint(labels, generators, _):
        drawn = pipe(labels, generator=generators, weak_transformer=weak, output_type="pt", **settings)
        return cut(drawn.images)

    return pipe, settings | ({"weak": folder_sha256(home)} if weak else {}), paint


def _items(options: argparse.Namespace, out: Path, pipe: RPiAEPipeline | ClassConditionalPipeline) -> list[Item]:
    if options.benchmark == "classes":
        return classes(options.count, pipe.transformer.config.num_classes, out, options.seed)
    if options.benchmark == "geneval":
        return geneval(options.prompts, out, options.pictures)
    if options.benchmark == "dpg":
        return dpg(options.prompts, out)
    return gedit(options.dataset, out, options.model, options.language or LANGUAGES)


# What to run next: in a checkout of the benchmark, for classes here.
SCORERS = {
    "geneval": """Score them with:
  python evaluation/evaluate_images.py {out} --outfile results.jsonl --model-path DETECTOR
  python evaluation/summary_scores.py results.jsonl""",
    "dpg": """Score them with:
  bash dpg_bench/dist_eval.sh {out} {side}
Its results land among the pictures and spoil a second run: docs/evaluation.md says how to put them elsewhere.""",
    "gedit": """Score them, after what docs/evaluation.md says of the two scripts, with:
  python test_gedit_score.py --model_name {model} --save_path {out} --backbone gpt4o
  python calculate_statistics.py --model_name {model} --save_path {out} --backbone gpt4o --language en  # or zh""",
    "classes": """Measure them with:
  python -m train measure-samples {archive} VIRTUAL_imagenet256_labeled.npz""",
}


def _next(options: argparse.Namespace, out: Path, side: int) -> str:
    """The commands that score what was made; `side`: of one picture."""
    names = {"out": out, "archive": beside(out, ".npz"), "model": getattr(options, "model", "")}
    quoted = {name: shlex.quote(str(value)) for name, value in names.items()}
    return SCORERS[options.benchmark].format(**quoted, side=side)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train export", description="Pictures in the layouts of the official scorers."
    )
    benchmarks = parser.add_subparsers(dest="benchmark", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--seed", type=int, default=0)
    common.add_argument("--batch", type=int, default=8)
    common.add_argument("--steps", type=int, help="the checkpoint's own when left out, as for all of these")
    common.add_argument("--guidance-scale", "--guidance", type=float)
    prompted = argparse.ArgumentParser(add_help=False, parents=[common])
    prompted.add_argument("--checkpoint", default="assets/checkpoints/stickers-256", help="a folder or hf:org/name")
    prompted.add_argument("--image-guidance-scale", type=float)
    one = benchmarks.add_parser("geneval", parents=[prompted])
    one.add_argument("prompts", type=Path, help="evaluation_metadata.jsonl, or the file of long prompts")
    one.add_argument("--pictures", type=int, default=PICTURES, help="a prompt")
    two = benchmarks.add_parser("dpg", parents=[prompted])
    two.add_argument("prompts", type=Path, help="the folder dpg_bench/prompts")
    three = benchmarks.add_parser("gedit", parents=[prompted])
    three.add_argument("dataset", help="the data set's folder, or hf:stepfun-ai/GEdit-Bench")
    three.add_argument("--model", default="rpiae", help="the name under which it is scored")
    three.add_argument("--language", action="append", choices=LANGUAGES, help="both when left out")
    four = benchmarks.add_parser("classes", parents=[common], description="Left out: as the authors sampled.")
    four.add_argument("--checkpoint", required=True, help="that draws classes: a folder or hf:org/name")
    four.add_argument("--count", type=int, default=PROTOCOL, help="pictures, of all classes together")
    four.add_argument("--weak", help="for autoguidance: the folder of a lesser transformer, or of its checkpoint")
    four.add_argument("--interval", type=float, nargs=2, metavar=("LOW", "HIGH"), help="times with guidance")
    four.add_argument("--time-shift", type=float)
    four.add_argument("--schedule", choices=SCHEDULES)
    for benchmark in (one, two, three, four):
        benchmark.add_argument("out", type=Path, help="the folder to make")
    return parser
