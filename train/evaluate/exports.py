"""Pictures of a checkpoint in the layouts that the official scorers of GenEval, DPG-Bench, GEdit-Bench and ADM read.

    python -m train export geneval evaluation_metadata.jsonl out/geneval --checkpoint DIR
    python -m train export dpg ELLA/dpg_bench/prompts out/dpg --checkpoint DIR
    python -m train export gedit hf:stepfun-ai/GEdit-Bench out/gedit --checkpoint DIR --model rpiae
    python -m train export classes out/classes --checkpoint DIR [--weak DIR --guidance 2.05]   # and out/classes.npz

A run that was stopped goes on where it was: files that are there stay. `<folder>.export.json` beside the folder says
what decides the pictures, and a run that differs from it is refused. A picture's noise follows from the seed, the
prompt's name in its benchmark and the picture's number, so batches and processes (`accelerate launch -m train export
...`) change nothing but rounding. Files appear whole: parts are written beside the folder too, because scorers take all
that is inside.
"""

import argparse
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from accelerate import PartialState
from einops import rearrange
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from rpiae import ClassConditionalPipeline, LightningDiT2DModel, RPiAEPipeline, images
from rpiae.class_conditional import SCHEDULES
from rpiae.loading import HUB_PREFIX, read_json, resolve
from rpiae.recipe import folder_sha256
from rpiae.text import TextEncoder

from ..states import write_whole
from .samples import PICTURES as ARCHIVED
from .samples import PROTOCOL

PICTURES = 4  # a prompt, in GenEval and DPG-Bench
LANGUAGES = ("en", "cn")
PATIENCE = timedelta(days=1)  # of processes that are done with their share


@dataclass(frozen=True)
class Item:
    """One file to make: a picture, or with several a grid of them, two in a row."""

    file: Path
    key: str  # the prompt's name in its benchmark
    prompt: str | int  # or a class label
    numbers: tuple[int, ...]  # of the pictures of this prompt that the file shows
    source: Callable[[], Image.Image] | None = None  # the picture to edit; GEdit-Bench wants it beside the edited one
    line: str = ""  # what GenEval wants beside the pictures


Paint = Callable[[list, list[torch.Generator], list[Image.Image] | None], list[Image.Image]]


def geneval(prompts: Path, out: Path, pictures: int = PICTURES) -> list[Item]:
    """`<out>/<5 digits>/samples/<4 digits>.png`, and the prompt's own line beside them as metadata.jsonl."""
    items = []
    for index, line in enumerate(_lines(prompts)):
        folder = out / f"{index:05d}"
        try:
            prompt = json.loads(line)["prompt"]
        except (json.JSONDecodeError, KeyError, TypeError):
            raise ValueError(f"line {index + 1} of {Path(prompts).name} is no JSON object with a prompt") from None
        files = [folder / "samples" / f"{number:04d}.png" for number in range(pictures)]
        items += [Item(file, folder.name, prompt, (number,), line=line) for number, file in enumerate(files)]
    return items


def dpg(prompts: Path, out: Path) -> list[Item]:
    """`<out>/<prompt's file name>.png`, four pictures in a grid; nothing else may lie in the folder."""
    if not Path(prompts).is_dir():
        raise ValueError(f"there is no folder {str(prompts)!r} with DPG-Bench's prompts")
    files = sorted(Path(prompts).glob("*.txt"))
    if not files:
        raise ValueError(f"the folder {Path(prompts).name!r} holds no prompts (*.txt)")
    texts = ((file.stem, " ".join(file.read_text(encoding="utf-8").split())) for file in files)
    return [Item(out / f"{name}.png", name, text, tuple(range(PICTURES))) for name, text in texts]


def gedit(dataset: str, out: Path, model: str, languages: Sequence[str] = LANGUAGES) -> list[Item]:
    """`<out>/<model>/fullset/<task>/<language>/<key>.png`, and the source beside it as `<key>_SRCIMG.png`."""
    rows, items = _rows(dataset), []
    for index, row in enumerate(rows.remove_columns("input_image")):
        task, language, key = (str(row[name]) for name in ("task_type", "instruction_language", "key"))
        if any(Path(name).name != name or name in ("", ".", "..") for name in (task, language, key)):
            raise ValueError(f"row {index} of the data set has no usable name: {task!r}, {language!r}, {key!r}")
        if language not in languages:
            continue
        folder = out / model / "fullset" / task / language
        name, source = f"{task}/{language}/{key}", partial(_source, rows, index)
        items.append(Item(folder / f"{key}.png", name, row["instruction"], (0,), source))
    return items


def classes(count: int, num_classes: int, out: Path, seed: int = 0) -> list[Item]:
    """`<out>/<6 digits>.png`: each class count / num_classes times, the first ones once more where that leaves a rest.

    In the authors' order for this seed: ADM takes the Inception Score of consecutive 5,000s, which should each show all
    classes.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    labels = (torch.arange(count) % num_classes).sort().values[order].tolist()
    return [Item(out / f"{index:06d}.png", f"{index:06d}", label, (0,)) for index, label in enumerate(labels)]


def claim(folder: Path, identity: dict) -> None:
    """Say beside a folder what decides its pictures, unless there are some already."""
    if not _beside(folder, ".npz").is_file() and next(folder.rglob("*.png"), None) is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_whole(_beside(folder, ".export.json"), json.dumps(identity, indent=1) + "\n")


def check(folder: Path, identity: dict) -> None:
    """ValueError when the pictures of a folder are of another export."""
    file = _beside(folder, ".export.json")
    advice = "remove the folder (and the .npz of that name), or name another"
    if not file.is_file():
        raise ValueError(f"{folder} holds pictures, and no {file.name} beside it says what made them: {advice}")
    theirs = read_json(file, "an export")
    if other := sorted(key for key in theirs.keys() | identity.keys() if theirs.get(key) != identity.get(key)):
        raise ValueError(f"{folder} holds pictures of another export (not the same: {', '.join(other)}): {advice}")


def paint_all(items: Sequence[Item], paint: Paint, out: Path, seed: int = 0, batch: int = 8, shown: bool = True) -> int:
    """Make the files that are not there yet; how many that were."""
    for item in items:
        _lay_beside(item, out)
    waiting = [item for item in items if not item.file.is_file()]
    done: dict[Path, list[Image.Image]] = {item.file: [] for item in waiting}
    jobs = [(item, number) for item in waiting for number in item.numbers]
    with tqdm(total=len(jobs), unit="picture", disable=not shown) as bar:
        for part in (jobs[start : start + batch] for start in range(0, len(jobs), batch)):
            generators = [torch.Generator().manual_seed(picture_seed(seed, item.key, number)) for item, number in part]
            sources = [item.source() for item, _ in part] if part[0][0].source else None
            pictures = paint([item.prompt for item, _ in part], generators, sources)
            for (item, _), picture in zip(part, pictures, strict=True):
                done[item.file].append(picture)
                if len(done[item.file]) == len(item.numbers):
                    _save(grid(done.pop(item.file)), item.file, out)
            bar.update(len(part))
    return len(waiting)


def archive(items: Sequence[Item], file: Path) -> None:
    """The pictures as ADM's sampler leaves them: an .npz with arr_0, uint8 (n, H, W, 3), and the labels as arr_1.

    Whole or not at all, and from picture to picture: 50,000 of them take 10 GB.
    """
    shape = np.asarray(Image.open(items[0].file)).shape
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(items), *shape)}
    part = file.with_name(f".{file.stem}-{uuid4().hex}.part")
    try:
        with zipfile.ZipFile(part, "w") as parts:
            with parts.open(f"{ARCHIVED}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array_header_1_0(stream, header)
                for item in tqdm(items, desc=file.name, unit="picture"):
                    pixels = np.asarray(Image.open(item.file))
                    if pixels.shape != shape:
                        raise ValueError(f"{item.file} is {pixels.shape}, the first {shape}: remove it and run again")
                    stream.write(pixels.tobytes())
            with parts.open("arr_1.npy", "w") as stream:
                np.lib.format.write_array(stream, np.array([item.prompt for item in items], dtype=np.int64))
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def shortened(items: list[Item], encoder: TextEncoder) -> tuple[list[Item], int]:
    """The items with prompts that the text encoder can read whole, without their last words; and how many lost some."""
    result, count = [], 0
    for item in items:
        words = item.prompt.split()
        while encoder.count_tokens(" ".join(words)) > encoder.config.max_tokens:
            words.pop()
        is_long = len(words) < len(item.prompt.split())
        result.append(replace(item, prompt=" ".join(words)) if is_long else item)
        count += is_long
    return result, count


def picture_seed(seed: int, key: str, number: int) -> int:
    """Of one picture of one prompt, whatever else is made."""
    digest = hashlib.sha256(f"{seed}/{key}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def grid(pictures: list[Image.Image]) -> Image.Image:
    """Pictures of one size, two in a row; one alone as it is."""
    if len(pictures) == 1:
        return pictures[0]
    width, height = pictures[0].size
    sheet = Image.new("RGB", (2 * width, -(-len(pictures) // 2) * height))
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % 2 * width, index // 2 * height))
    return sheet


def cut(pictures: Tensor) -> list[Image.Image]:
    """Pictures (B, 3, H, W) in [0, 1], cut to 8 bits and not rounded, as the authors do before they measure."""
    pixels = rearrange((pictures * 255).to(torch.uint8), "b c h w -> b h w c").cpu().numpy()
    return [Image.fromarray(one) for one in pixels]


def _lines(file: Path) -> list[str]:
    if not Path(file).is_file():
        raise ValueError(f"there is no file {str(file)!r} with GenEval's prompts")
    return [line for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]


def _rows(dataset: str):
    """The rows of GEdit-Bench, from a folder as `datasets` saves or downloads it, or from the hub for "hf:org/name"."""
    import datasets

    name = str(dataset)
    try:
        if name.startswith(HUB_PREFIX):
            found = datasets.load_dataset(name.removeprefix(HUB_PREFIX), split="train")
        elif not Path(name).is_dir():
            raise ValueError(
                f"there is no folder {name!r} with GEdit-Bench; for the hub write hf:stepfun-ai/GEdit-Bench"
            )
        elif any((Path(name) / file).is_file() for file in ("state.json", "dataset_dict.json")):
            found = datasets.load_from_disk(name)
        else:
            found = datasets.load_dataset(name, split="train")
    except (OSError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"{name!r} cannot be read as a data set: {str(error).splitlines()[0]}") from error
    found = found["train"] if isinstance(found, dict) else found
    needed = {"task_type", "key", "instruction", "instruction_language", "input_image"}
    if missing := needed - set(found.column_names):
        raise ValueError(f"{name!r} is not GEdit-Bench: it has no column {', '.join(sorted(missing))}")
    return found.select_columns(sorted(needed))


def _source(rows, index: int) -> Image.Image:
    return images.load(rows[index]["input_image"])


def _lay_beside(item: Item, out: Path) -> None:
    """What a scorer wants to find with a picture."""
    metadata, source = item.file.parents[1] / "metadata.jsonl", item.file.with_name(f"{item.file.stem}_SRCIMG.png")
    if item.line and not metadata.is_file():
        _place(metadata, lambda part: part.write_text(item.line + "\n", encoding="utf-8"), out)
    if item.source and not source.is_file():
        _save(item.source(), source, out)


def _save(picture: Image.Image, file: Path, out: Path) -> None:
    _place(file, lambda part: picture.save(part, format="PNG"), out)


def _place(file: Path, write: Callable[[Path], object], out: Path) -> None:
    """Have a file written in a folder beside `out`, which scorers don't look at, and put it where it belongs."""
    part = _parts(out) / f"{uuid4().hex}-{file.name}"  # machines with one disk may number their processes alike
    for folder in (part.parent, file.parent):
        folder.mkdir(parents=True, exist_ok=True)
    write(part)
    os.replace(part, file)


def _parts(out: Path) -> Path:
    return out.with_name(f".{out.name}.part")


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(folder.name + ending)


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
    items, shorter = (items, 0) if by_class else shortened(items, pipe.text_encoder)
    own = items[state.process_index :: state.num_processes]
    paint_all(own, paint, folder, options.seed, options.batch, shown=state.is_main_process)
    state.wait_for_everyone()
    if state.is_main_process:
        shutil.rmtree(_parts(folder), ignore_errors=True)
        if by_class and not _beside(folder, ".npz").is_file():
            archive(items, _beside(folder, ".npz"))
        if shorter:
            slots = pipe.text_encoder.config.max_tokens
            print(f"{shorter} of {len(items)} prompts lost their last words: this model reads {slots} word pieces.")
        print(f"{len(items)} files in {options.out}. {SCORERS[options.benchmark].format(**vars(options))}")


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
    "geneval": "Score them with: python evaluation/evaluate_images.py {out} --outfile results.jsonl --model-path "
    "DETECTOR && python evaluation/summary_scores.py results.jsonl",
    "dpg": "Score them with: bash dpg_bench/dist_eval.sh {out} R, R being a picture's side (half of a grid's).",
    "gedit": "Score them with: python test_gedit_score.py --model_name {model} --save_path {out} --backbone gpt4o",
    "classes": "Measure them with: python -m train measure-samples {out}.npz VIRTUAL_imagenet256_labeled.npz",
}


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
