"""All measurements of a checkpoint in one run, as JSON and as Markdown tables."""

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from rpiae import RPiAEPipeline

from ..data.scenes import VOCABULARY, warm_up
from ..states import write_whole
from .accuracy import judge_accuracy
from .calibrate import WHOLE_PICTURE
from .measure import (
    evaluate_editing,
    evaluate_paraphrases,
    evaluate_reconstruction,
    evaluate_text_to_image,
    round_trip,
    to_uint8,
)

logger = logging.getLogger(__name__)
RECONSTRUCTIONS = 64
WITH_NOUNS = ("text to image", "editing")
LEAST_ACCURACY = 20  # pictures a row of the judge's own table


def run(
    pipe: RPiAEPipeline,
    out_dir: Path | str,
    *,
    n: int = 20,
    seed: int = 0,
    common: Sequence[str] = (),
    common_words: Sequence[str] = (),
) -> dict:
    """Measure everything and write tables.json and tables.md into `out_dir`; returns the tables.

    n: held-out cases per skill and category.
    common: nouns that training showed more often; text-to-image and editing are measured once more on these alone.
    common_words: what signs say then, likewise; none: any word.
    """
    if n < 1:
        raise ValueError(f"n is the number of cases per row, at least 1, not {n}")

    warm_up()

    def through_tokenizer(picture: np.ndarray) -> np.ndarray:
        return to_uint8(round_trip(pipe, [picture]))[0]

    parts: dict[str, Callable[[], dict]] = {
        "reconstruction": lambda: evaluate_reconstruction(pipe, RECONSTRUCTIONS, seed),
        "reconstruction of filtered": lambda: evaluate_reconstruction(pipe, RECONSTRUCTIONS, seed, 1.0),
        "text to image": lambda: evaluate_text_to_image(pipe, n, seed),
        "editing": lambda: evaluate_editing(pipe, n, seed),
        "paraphrases": lambda: evaluate_paraphrases(pipe, seed),
        "judge": lambda: judge_accuracy(max(n, LEAST_ACCURACY), seed, through_tokenizer),
    }
    tables: dict = {"settings": {"n": n, "seed": seed, "common": list(common), "common_words": list(common_words)}}
    for name, measure in parts.items():
        tables[name] = _timed(name, measure)
    if common:
        with VOCABULARY.narrowed(drawn_nouns=tuple(common), words=tuple(common_words) or VOCABULARY.words):
            for name in WITH_NOUNS:
                tables[f"{name}, common nouns"] = _timed(f"{name}, common nouns", parts[name])
    kept = [row["kept"] for category, row in tables["editing"].items() if category not in WHOLE_PICTURE]
    tables["preservation"] = {"kept": float(np.mean(kept))}
    _write(Path(out_dir), tables)
    return tables


def _timed(name: str, measure: Callable[[], dict]) -> dict:
    start = time.perf_counter()
    table = measure()
    logger.info("%s: %.0f s", name, time.perf_counter() - start)
    return table


def _write(folder: Path, tables: dict) -> None:
    """Both files, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"tables.json": json.dumps(tables, indent=1) + "\n", "tables.md": markdown(tables)}
    for name, text in texts.items():
        write_whole(folder / name, text)


def markdown(tables: Mapping) -> str:
    """The tables of `run` as Markdown."""
    settings = tables["settings"]
    common = {name: tables.get(f"{name}, common nouns", {}) for name in WITH_NOUNS}
    parts = [
        f"Held-out scenes and prompts, {settings['n']} a row, seed {settings['seed']}. Judged by `train/evaluate` "
        "(analysis by synthesis; its own accuracy is below). Unseen: to draw is a noun-colour pair that training never "
        "showed." + _said_of(settings["common"], settings["common_words"]),
        _reconstruction(tables),
        _outcomes("Text to image (GenEval's skills)", "skill", tables["text to image"], common["text to image"]),
        _outcomes(
            "Editing", "category", tables["editing"] | {"30 paraphrases": tables["paraphrases"]}, common["editing"]
        ),
        f"Pixels outside the true change that stay the input's own, mean over local edits: "
        f"**{_percent(tables['preservation']['kept'])}**.",
        _judge(tables["judge"]),
    ]
    return "\n\n".join(parts) + "\n"


def _said_of(common: Sequence[str], words: Sequence[str]) -> str:
    if not common:
        return ""
    on_signs = f", with {', '.join(words)} on signs" if words else ""
    return f" Common nouns, which training showed more often, have as many other cases: {', '.join(common)}{on_signs}."


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _reconstruction(tables: Mapping) -> str:
    rows = []
    for name, title in {"reconstruction": "no filter", "reconstruction of filtered": "filtered"}.items():
        row = tables[name]
        distance = "-" if row["lpips"] is None else f"{row['lpips']:.3f}"
        numbers = [f"{row['psnr']:.2f} dB", f"{row['ssim']:.3f}", distance, _percent(row["judged"])]
        rows.append([title, str(row["n"]), *numbers])
    head = ["scenes", "pictures", "PSNR", "SSIM", "LPIPS (VGG)", "judge still accepts"]
    missing = tables["reconstruction"]["lpips missing"]
    note = f"\n\n{missing}" if missing else ""
    return f"**Reconstruction**\n\n{_table(head, rows)}{note}"


def _outcomes(title: str, what: str, measured: Mapping[str, Mapping], common: Mapping[str, Mapping]) -> str:
    """One row a skill or category, the mean last, and what failed most; beside it as many cases of common nouns."""
    keeps = any("kept" in row for row in measured.values())
    rows = []
    for name, row in measured.items():
        most = ", ".join(f"{check} {count}" for check, count in list(row["failed"].items())[:3])
        cells = [name, str(row["n"]), _percent(row["share"]), _percent(row["share seen"])]
        cells.append(f"{_percent(row['share unseen'])} ({row['n unseen']})" if row["n unseen"] else "-")
        if common:
            cells.append(_percent(common[name]["share"]) if name in common else "-")
        if keeps:
            cells.append(_percent(row.get("kept")))
        rows.append([*cells, most or "-"])
    scored = [row for name, row in measured.items() if name != "30 paraphrases"]
    mean = [f"**mean over {'skills' if what == 'skill' else 'categories'}**", str(sum(row["n"] for row in scored))]
    mean += [f"**{_mean_share(scored)}**", "", "", *([f"**{_mean_share(common.values())}**"] if common else [])]
    rows.append([*mean, *([""] if keeps else []), ""])
    head = [what, "cases", "right", "right, seen pairs", "right, unseen pairs (cases)"]
    head += [*(["right, common nouns"] if common else []), *(["untouched pixels kept"] if keeps else [])]
    head += ["what failed most"]
    return f"**{title}**\n\n{_table(head, rows)}"


def _mean_share(rows: Iterable[Mapping]) -> str:
    return _percent(float(np.mean([row["share"] for row in rows])))


def _judge(accuracy: Mapping[str, Mapping]) -> str:
    """Accepted and rejected shares of both judges, a table each."""
    known, free = accuracy["known places"], accuracy["free places"]
    rows = [
        [f"true, {name}: accepted", _percent(known["accepted"][name]), _percent(free["accepted"][name])]
        for name in known["accepted"]
    ]
    rows += [
        [f"wrong {name}: rejected", _percent(share), _percent(free["rejected"].get(name))]
        for name, share in known["rejected"].items()
    ]
    undone = known["rejected when not edited"]
    rows.append(["not edited at all: rejected", _percent(float(np.mean(list(undone.values())))), "-"])
    head = ["pictures", "places known (edits)", "places free (text to image)"]
    taken_in = [f"{category} {_percent(share)}" for category, share in undone.items() if share < 1]
    text = f"**The judge's own accuracy**, {accuracy['n']} pictures a row; in the last row a quarter of that "
    text += "for each kind of edit, judged as if done"
    text += f". Not always rejected: {', '.join(taken_in)}" if taken_in else ""
    return f"{text}\n\n{_table(head, rows)}"
