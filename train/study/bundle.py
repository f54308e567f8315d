"""The study's tokenizers for the Compare tab, and their generators if asked: float16, in assets/tokenizers/compact-*,
within limits. A folder with a generator is a pipeline's, one without it holds the tokenizer alone."""

import shutil
from pathlib import Path

from rpiae.autoencoder import AutoencoderRPiAE
from rpiae.loading import WEIGHTS
from rpiae.pipeline import RPiAEPipeline, make_scheduler
from rpiae.text import TextEncoder
from rpiae.tokenizers import COMPACT, published
from rpiae.tokenizers.compact import open_model
from rpiae.transformer import RPiAETransformer2DModel

from ..card import LICENCE
from ..data.scenes import CATEGORIES, VOCABULARY
from ..publish import half
from .config import StudySettings
from .generator import as_training_config
from .rows import ROWS
from .run import RowRun

# Bytes in all, of tokenizers and of generators: git keeps every version.
LIMIT, GENERATORS_LIMIT = 12 * 2**20, 24 * 2**20
# What Compare is about comes first; ablations stay at home.
ORDER = ("rpiae", "sd-vae", "va-vae", "rae", "fae", "vqgan")


class Room:
    """What a limit leaves for one kind of weights."""

    def __init__(self, limit: int, used: int):
        self.limit, self.used = limit, used

    def takes(self, result: Path, what: str) -> bool:
        """Whether a result fits in float16, which is then counted; why not is printed."""
        size = (result / WEIGHTS).stat().st_size // 2
        if self.used + size > self.limit:
            wanted, limit = (self.used + size) / 2**20, self.limit / 2**20
            print(f"{what} stays out: {wanted:.1f} MiB would be more than {limit:.0f}")
            return False
        self.used += size
        return True


def export(
    study: StudySettings,
    names: list[str],
    folder: Path = published.ASSETS,
    generators: bool = False,
    limit: int = LIMIT,
    generators_limit: int = GENERATORS_LIMIT,
) -> list[Path]:
    """Write the finished tokenizers of these rows, of the first seed that has one, as many as the limit allows beside
    those of other rows that are there already; with `generators` each with its own where that is finished and fits.

    Returns their folders. ValueError when none of them is finished.
    """
    runs = {name: run for name in ORDER if name in names and (run := _finished(study, name))}
    others = [one for one in folder.glob(f"{COMPACT}*") if one.name.removeprefix(COMPACT) not in runs]
    tokenizers = Room(limit, _bytes(others, f"vae/{WEIGHTS}"))
    drawing_room = Room(generators_limit, _bytes(others, f"transformer/{WEIGHTS}"))
    written = []
    for name, run in runs.items():
        if not tokenizers.takes(_result(run, ROWS[name].phases[-1].name), name):
            continue
        drawing = _result(run, "generator") if generators else None
        if drawing is not None and not drawing_room.takes(drawing, f"the generator of {name}"):
            drawing = None
        written.append(_write(study, run, drawing, folder / f"{COMPACT}{name}"))
    if not written:
        raise ValueError(f"no tokenizer of {', '.join(names)} is finished in {study.output}; train the study first")
    return written


def _bytes(folders: list[Path], file: str) -> int:
    """Of this file in all of these folders."""
    return sum((folder / file).stat().st_size for folder in folders if (folder / file).is_file())


def _finished(study: StudySettings, name: str) -> RowRun | None:
    """A row with the first seed whose tokenizer is finished."""
    runs = (RowRun(study, name, seed) for seed in study.seeds)
    return next((run for run in runs if _result(run, ROWS[name].phases[-1].name)), None)


def _result(run: RowRun, phase: str) -> Path | None:
    """The result of a row's phase, or of its generator, once that is finished."""
    return run.folder / phase / "result" if (run.folder / phase / "finished.json").is_file() else None


def _write(study: StudySettings, run: RowRun, drawing: Path | None, target: Path) -> Path:
    """One folder, in place of what was there."""
    vae = open_model(_result(run, run.row.phases[-1].name))
    if drawing is None and (target / "transformer").is_dir():
        print(f"{target.name} loses the generator that it had: --generators would write this one's")
    shutil.rmtree(target, ignore_errors=True)
    if drawing is None:
        half(vae).save_pretrained(target / "vae")
    else:
        _pipeline(study, run, vae, RPiAETransformer2DModel.from_pretrained(drawing)).save_pretrained(target)
    (target / "README.md").write_text(_card(study, run.name, vae.latent_shape, drawing is not None), encoding="utf-8")
    return target


def _pipeline(
    study: StudySettings, run: RowRun, vae: AutoencoderRPiAE, transformer: RPiAETransformer2DModel
) -> RPiAEPipeline:
    """What `GeneratorTask.pipeline` draws with, to be saved. Of the text encoder that is its config."""
    sampling = as_training_config(study, run.seed, vae.latent_shape).sampling
    return RPiAEPipeline(
        vae=half(vae), transformer=half(transformer),
        text_encoder=TextEncoder(**study.models.text_encoder),
        scheduler=make_scheduler(sampling.time_shift),
        defaults=sampling.model_dump(exclude={"time_shift"}),
    )  # fmt: skip


def _card(study: StudySettings, name: str, shape: tuple[int, int, int], draws: bool) -> str:
    row, side = ROWS[name], study.world.side
    size = " x ".join(map(str, shape))
    generator = ""
    if draws:
        generator = f"""
Beside it lies the study's generator on its latents: a diffusion transformer for text-to-image and editing, of one size
for all tokenizers, trained on the same {study.generator.samples:,} scenes with their edits
({", ".join(study.world.categories or CATEGORIES)}) and captions. The text
encoder, all-MiniLM-L6-v2, is installed with the requirements.
"""
    return f"""---
license: {LICENCE}
library_name: rpiae
tags: [image-tokenizer]
---

# {COMPACT}{name}

A compact tokenizer that was trained here for the study ({study.name}), after the idea of {row.title}: {row.idea}.
It is **not** the published {row.title}: every tokenizer of the study has the same small encoder and decoder and saw the
same {study.tokenizer.samples:,} pictures of sticker scenes, {side} x {side} pixels. Latent {size}. The scenes show
{", ".join(study.world.nouns or VOCABULARY.drawn_nouns)}.
{generator}
`python -m train study {study.name} --rows {name}` trains and measures it.

## Licence

Weights CC BY-SA 4.0, because they were trained on drawings of OpenMoji (CC BY-SA 4.0) and Twemoji (CC BY 4.0); see
NOTICE. Code Apache-2.0.
"""
