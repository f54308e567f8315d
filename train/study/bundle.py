"""The study's tokenizers for the Compare tab: float16, in assets/tokenizers/compact-*, within a limit."""

from pathlib import Path

from rpiae.loading import WEIGHTS
from rpiae.tokenizers import COMPACT
from rpiae.tokenizers.compact import open_model

from ..card import LICENCE
from ..publish import half
from .config import StudySettings
from .rows import ROWS
from .run import RowRun

ASSETS = Path("assets/tokenizers")
LIMIT = 12 * 2**20  # bytes in all: git keeps every version
# What Compare is about comes first; ablations stay at home.
ORDER = ("rpiae", "sd-vae", "va-vae", "rae", "fae", "vqgan")


def export(study: StudySettings, names: list[str], folder: Path = ASSETS, limit: int = LIMIT) -> list[Path]:
    """Write the finished tokenizers of these rows, of the first seed that has one, as many as the limit allows.

    Returns their folders. ValueError when none of them is finished.
    """
    written, used = [], 0
    for name in (one for one in ORDER if one in names):
        result = _result(study, name)
        if result is None:
            continue
        model = open_model(result)
        size = (result / WEIGHTS).stat().st_size // 2
        if used + size > limit:
            print(f"{name} stays out: {(used + size) / 2**20:.1f} MiB would be more than {limit / 2**20:.0f}")
            continue
        used += size
        target = folder / f"{COMPACT}{name}"
        half(model).save_pretrained(target)
        (target / "README.md").write_text(_card(study, name, model.latent_shape), encoding="utf-8")
        written.append(target)
    if not written:
        raise ValueError(f"no tokenizer of {', '.join(names)} is finished in {study.output}; train the study first")
    return written


def _result(study: StudySettings, name: str) -> Path | None:
    """The result of the last phase of a row, by its first finished seed."""
    for seed in study.seeds:
        folder = RowRun(study, name, seed).folder / ROWS[name].phases[-1].name
        if (folder / "finished.json").is_file():
            return folder / "result"
    return None


def _card(study: StudySettings, name: str, shape: tuple[int, int, int]) -> str:
    row, side = ROWS[name], study.world.side
    size = " x ".join(map(str, shape))
    return f"""---
license: {LICENCE}
library_name: rpiae
tags: [image-tokenizer]
---

# {COMPACT}{name}

A compact tokenizer that was trained here for the study ({study.name}), after the idea of {row.title}: {row.idea}.
It is **not** the published {row.title}: every tokenizer of the study has the same small encoder and decoder and saw the
same {study.tokenizer.samples:,} pictures of sticker scenes, {side} x {side} pixels. Latent {size}.

`python -m train study {study.name} --rows {name}` trains and measures it.

## Licence

Weights CC BY-SA 4.0, because they were trained on drawings of OpenMoji (CC BY-SA 4.0) and Twemoji (CC BY 4.0); see
NOTICE. Code Apache-2.0.
"""
