"""Pictures of a checkpoint in the layouts that the official scorers of GenEval, DPG-Bench and GEdit-Bench read.

    python -m train export geneval evaluation_metadata.jsonl out/geneval --checkpoint DIR
    python -m train export dpg ELLA/dpg_bench/prompts out/dpg --checkpoint DIR
    python -m train export gedit hf:stepfun-ai/GEdit-Bench out/gedit --checkpoint DIR --model rpiae

A run that was stopped goes on where it was: files that are there stay. A picture's noise follows from the seed, the
prompt's name in its benchmark and the picture's number, so batches and processes (`accelerate launch -m train export
...`) change nothing. Files appear whole: parts are written beside the folder, because scorers take all that is inside.
"""

import argparse
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState
from PIL import Image
from tqdm import tqdm

from rpiae import RPiAEPipeline, images
from rpiae.loading import HUB_PREFIX
from rpiae.text import TextEncoder

PICTURES = 4  # a prompt, in GenEval and DPG-Bench
LANGUAGES = ("en", "cn")


@dataclass(frozen=True)
class Item:
    """One file to make: a picture, or with several a grid of them, two in a row."""

    file: Path
    key: str  # the prompt's name in its benchmark
    prompt: str
    numbers: tuple[int, ...]  # of the pictures of this prompt that the file shows
    source: Callable[[], Image.Image] | None = None  # the picture to edit


Paint = Callable[[list[str], list[torch.Generator], list[Image.Image] | None], list[Image.Image]]


def geneval(prompts: Path, out: Path, pictures: int = PICTURES) -> list[Item]:
    """`<out>/<5 digits>/samples/<4 digits>.png`, and the prompt's own line beside them as metadata.jsonl."""
    items = []
    for index, line in enumerate(_lines(prompts)):
        folder = out / f"{index:05d}"
        try:
            prompt = json.loads(line)["prompt"]
        except (json.JSONDecodeError, KeyError, TypeError):
            raise ValueError(f"line {index + 1} of {Path(prompts).name} is no JSON object with a prompt") from None
        _write_text(folder / "metadata.jsonl", line + "\n", out)
        files = [folder / "samples" / f"{number:04d}.png" for number in range(pictures)]
        items += [Item(file, folder.name, prompt, (number,)) for number, file in enumerate(files)]
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
        source = folder / f"{key}_SRCIMG.png"
        if not source.is_file():
            _save(images.load(rows[index]["input_image"]), source, out)
        name = f"{task}/{language}/{key}"
        items.append(Item(folder / f"{key}.png", name, row["instruction"], (0,), partial(images.load, source)))
    return items


def paint_all(items: Sequence[Item], paint: Paint, out: Path, seed: int = 0, batch: int = 8, shown: bool = True) -> int:
    """Make the files that are not there yet; how many that were."""
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


def _save(picture: Image.Image, file: Path, out: Path) -> None:
    part = _part(file, out)
    picture.save(part, format="PNG")
    _place(part, file)


def _write_text(file: Path, text: str, out: Path) -> None:
    if not file.is_file():
        part = _part(file, out)
        part.write_text(text, encoding="utf-8")
        _place(part, file)


def _part(file: Path, out: Path) -> Path:
    """Where a file is written before it appears in `out`: in a folder beside it, which scorers don't look at."""
    _parts(out).mkdir(parents=True, exist_ok=True)
    return _parts(out) / f"{os.getpid()}-{file.name}"


def _parts(out: Path) -> Path:
    return out.parent / f".{out.name}.part"


def _place(part: Path, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    os.replace(part, file)


def main(arguments: list[str]) -> None:
    options = _parser().parse_args(arguments)
    state = PartialState()
    pipe = RPiAEPipeline.from_pretrained(options.checkpoint).to(state.device)
    pipe.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": options.steps, "guidance_scale": options.guidance_scale}
    settings["image_guidance_scale"] = options.image_guidance_scale

    def paint(prompts, generators, sources):
        return pipe(prompt=prompts, image=sources, generator=generators, **settings).images

    out = Path(options.out).resolve()
    with state.main_process_first():  # it writes what lies beside the pictures
        items = _items(options, out)
    items, cut = shortened(items, pipe.text_encoder)
    own = items[state.process_index :: state.num_processes]
    paint_all(own, paint, out, options.seed, options.batch, shown=state.is_main_process)
    state.wait_for_everyone()
    if state.is_main_process:
        shutil.rmtree(_parts(out), ignore_errors=True)
        if cut:
            slots = pipe.text_encoder.config.max_tokens
            print(f"{cut} of {len(items)} prompts lost their last words: this model reads {slots} word pieces.")
        print(f"{len(items)} files in {options.out}. {SCORERS[options.benchmark].format(**vars(options))}")


def _items(options: argparse.Namespace, out: Path) -> list[Item]:
    if options.benchmark == "geneval":
        return geneval(options.prompts, out, options.pictures)
    if options.benchmark == "dpg":
        return dpg(options.prompts, out)
    return gedit(options.dataset, out, options.model, options.language or LANGUAGES)


# What to run next, in a checkout of the benchmark.
SCORERS = {
    "geneval": "Score them with: python evaluation/evaluate_images.py {out} --outfile results.jsonl --model-path "
    "DETECTOR && python evaluation/summary_scores.py results.jsonl",
    "dpg": "Score them with: bash dpg_bench/dist_eval.sh {out} R, R being a picture's side (half of a grid's).",
    "gedit": "Score them with: python test_gedit_score.py --model_name {model} --save_path {out} --backbone gpt4o",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train export", description="Pictures in the layouts of the official scorers."
    )
    benchmarks = parser.add_subparsers(dest="benchmark", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--checkpoint", default="assets/checkpoints/stickers-256", help="a folder or hf:org/name")
    common.add_argument("--seed", type=int, default=0)
    common.add_argument("--batch", type=int, default=8)
    common.add_argument("--steps", type=int, help="the checkpoint's own when left out, as for all of these")
    common.add_argument("--guidance-scale", type=float)
    common.add_argument("--image-guidance-scale", type=float)
    one = benchmarks.add_parser("geneval", parents=[common])
    one.add_argument("prompts", type=Path, help="evaluation_metadata.jsonl, or the file of long prompts")
    one.add_argument("--pictures", type=int, default=PICTURES, help="a prompt")
    two = benchmarks.add_parser("dpg", parents=[common])
    two.add_argument("prompts", type=Path, help="the folder dpg_bench/prompts")
    three = benchmarks.add_parser("gedit", parents=[common])
    three.add_argument("dataset", help="the data set's folder, or hf:stepfun-ai/GEdit-Bench")
    three.add_argument("--model", default="rpiae", help="the name under which it is scored")
    three.add_argument("--language", action="append", choices=LANGUAGES, help="both when left out")
    for benchmark in (one, two, three):
        benchmark.add_argument("out", help="the folder to make")
    return parser
