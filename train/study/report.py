"""The study's rows as one table and its curves as one picture. Two seeds are a spread: no ranking inside it."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from .config import settings_of
from .rows import ROWS

# Column → (number, format, which is better: larger or smaller).
COLUMNS = {
    "PSNR, dB": ("psnr", "{:.2f}", max),
    "SSIM": ("ssim", "{:.3f}", max),
    "perceptual": ("perceptual", "{:.3f}", min),
    "FD": ("fd", "{:.1f}", min),
    "nouns": ("probe_nouns", "{:.1%}", max),
    "colours": ("probe_colors", "{:.1%}", max),
    "places": ("probe_places", "{:.1%}", max),
    "FD drawn": ("drawn_fd", "{:.1f}", min),
    "text to image": ("skills", "{:.1%}", max),
    "its checks": ("skill_checks", "{:.1%}", max),
    "edits": ("edits", "{:.1%}", max),
    "their checks": ("edit_checks", "{:.1%}", max),
    "changed pixels": ("changed_error", "{:.3f}", min),
}
JUDGED = (
    " Text to image, edits: share that the judge accepts whole, and of its single checks. Changed pixels: error (rms) "
    "where an edit changes the picture."
)
PANELS = {
    "skills": "text to image, share right",
    "edits": "edits, share right",
    "skill_checks": "text to image, checks passed",
    "edit_checks": "edits, checks passed",
}


def read_rows(results: Path) -> dict[str, list[dict]]:
    """Finished rows by name, in the study's order; their seeds in order."""
    found = defaultdict(list)
    for file in sorted((results / "rows").glob("*.json")):
        one = json.loads(file.read_text(encoding="utf-8"))
        found[one["row"]].append(one)
    settings = [settings_of(one) | {"row": None} for some in found.values() for one in some]
    if any(one != settings[0] for one in settings):
        raise ValueError(f"{results} holds rows of different settings; remove those that are not this study's")
    if len({one.get("representation") for some in found.values() for one in some}) > 1:
        raise ValueError(f"{results} holds rows from different frozen representations; remove those from another one")
    return {name: sorted(found[name], key=lambda one: one["seed"]) for name in ROWS if name in found}


def write(results: Path) -> str:
    """Table and, of generators, curves of what is finished, into table.md and curves.png; returns the table."""
    rows = read_rows(results)
    if not rows:
        raise ValueError(f"{results} holds no finished row of the study")
    text = table(rows)
    (results / "table.md").write_text(text + "\n", encoding="utf-8")
    if _drawn(rows):
        curves(rows, results / "curves.png")
    return text


def table(rows: dict[str, list[dict]]) -> str:
    """Markdown: the middle of the seeds ± half of what lies between them; of the rows with such a spread, all that is
    not clear of the best is bold."""
    first = next(iter(rows.values()))[0]
    columns = {title: column for title, column in COLUMNS.items() if column[0] in first["numbers"]}
    spans = {name: {key: _span(seeds, key) for key, _, _ in columns.values()} for name, seeds in rows.items()}
    spread = {name: spans[name] for name, seeds in rows.items() if len(seeds) > 1}
    lines = [
        "| | latent | " + " | ".join(columns) + " | minutes |",
        "|---|---|" + "---:|" * (len(columns) + 1),
    ]
    for name, seeds in rows.items():
        cells = []
        for key, form, best in columns.values():
            low, high = spans[name][key]
            mean, half = form.format((low + high) / 2), form.format((high - low) / 2)
            cell = f"{mean} ± {half}" if len(seeds) > 1 else mean
            cells.append(f"**{cell}**" if _among_the_best(name, key, best, spread) else cell)
        minutes = np.mean([sum(leg["minutes"] for leg in one["legs"].values()) for one in seeds])
        lines.append(f"| {seeds[0]['title']} | {_latent(seeds)} | " + " | ".join(cells) + f" | {minutes:.0f} |")
    seeds = sorted({one["seed"] for some in rows.values() for one in some})
    count = first["numbers"]["pictures"]
    ranking = ["± is half of what lies between a row's."] if spread else []
    if len(spread) > 1:
        ranking.append(
            "Bold: of the rows with a spread the best mean, and every row whose seeds are not clear of its seeds, so "
            "no ranking is claimed among bold cells."
        )
    if len(spread) < len(rows):
        ranking.append("A row with one seed has no spread, so no ranking is claimed.")
    lines += [
        "",
        f"Seeds: {', '.join(map(str, seeds))}. {' '.join(ranking)}",
        f"FD: Fréchet distance in the features of {first['numbers']['feature_space']}, {count} held-out pictures: it "
        "compares rows here and nothing else. Perceptual: EfficientNet-Lite0 features, see train/perceptual.py. Nouns, "
        "colours, places: linear probes of one token of the latent." + (JUDGED if _drawn(rows) else ""),
        *_ceiling(rows),
    ]
    return "\n".join(lines)


def _drawn(rows: dict[str, list[dict]]) -> bool:
    """Whether generators were trained, too."""
    return all("drawn_fd" in one["numbers"] for some in rows.values() for one in some)


def _ceiling(rows: dict[str, list[dict]]) -> list[str]:
    """What the judge makes of true pictures, for rows that noted it."""
    known = [one for some in rows.values() for one in some if "ceiling" in one["numbers"]]
    if not known:
        return []
    share, count = known[0]["numbers"]["ceiling"], known[0]["settings"]["measure"]["ceiling"]
    return [f"Of {count} true pictures, seen as small as the models see them, the judge accepts {share:.1%}."]


def _latent(seeds: list[dict]) -> str:
    """Its shape, and how much of its codebook is used, where it has one."""
    shape = " × ".join(map(str, seeds[0]["latent_shape"]))
    used = [one["numbers"]["codes_used"] for one in seeds if "codes_used" in one["numbers"]]
    return f"{shape}, {np.mean(used):.0%} of the codes" if used else shape


def _span(seeds: list[dict], key: str) -> tuple[float, float]:
    values = [one["numbers"][key] for one in seeds]
    return min(values), max(values)


def _among_the_best(name: str, key: str, best, spans: dict) -> bool:
    """Whether a row is among those with a spread, and its seeds overlap those of the one with the best mean."""
    if len(spans) < 2 or name not in spans:
        return False
    winner = best(spans, key=lambda other: sum(spans[other][key]))
    (low, high), (least, most) = spans[name][key], spans[winner][key]
    return low <= most and least <= high


def curves(rows: dict[str, list[dict]], path: Path) -> None:
    """A line a row over the generator's scenes, its seeds' spread as a band; ablations are dashed. A row without a
    curve has none."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True).ravel()
    for panel, (key, title) in zip(panels, PANELS.items(), strict=True):
        for name, seeds in rows.items():
            drawn = [one["curve"] for one in seeds if one["curve"]]
            if not drawn:
                continue
            samples = [point["samples"] for point in drawn[0]]
            values = np.array([[point[key] for point in points] for points in drawn])
            style = "--" if ROWS[name].ablation else "-"
            (line,) = panel.plot(samples, values.mean(0), style, marker=".", label=seeds[0]["title"])
            panel.fill_between(samples, values.min(0), values.max(0), color=line.get_color(), alpha=0.12)
        panel.set_title(title)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
        panel.set_xlabel("scenes seen")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    figure.savefig(path, dpi=110)
