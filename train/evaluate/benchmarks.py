"""What GenEval, DPG-Bench and GEdit-Bench ask for, and where their scorers look for it."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from PIL import Image

from rpiae import images
from rpiae.loading import HUB_PREFIX
from rpiae.text import TextEncoder

from .painting import Item

PICTURES = 4  # a prompt, in GenEval and DPG-Bench
LANGUAGES = ("en", "cn")
# What a long prompt loses from its end: a word, 20 characters of a longer one, or one where words are not spaced.
PART = re.compile(r"\s*(?:[^\s\u2e80-\U0010ffff]{1,20}|\S)")


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


def shortened(items: list[Item], encoder: TextEncoder) -> tuple[list[Item], int]:
    """The items with prompts that the text encoder can read whole, without their ends; and how many lost theirs."""
    result = [replace(item, prompt=_beginning(item.prompt, encoder)) for item in items]
    return result, sum(one.prompt != item.prompt for one, item in zip(result, items, strict=True))


def _beginning(prompt: str, encoder: TextEncoder) -> str:
    """As much of a prompt as fits, and never nothing."""
    text, parts = prompt, PART.findall(prompt)
    while encoder.count_tokens(text) > encoder.config.max_tokens and len(parts) > 1:
        parts.pop()
        text = "".join(parts).strip()
    return text


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
