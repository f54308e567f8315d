"""The study's tokenizers for the Compare tab, and their generators if asked: float16, in assets/tokenizers/compact-*,
within limits. A folder with a generator is a pipeline's, one without it holds the tokenizer alone."""

import json
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
    """What a limit leaves for one kind of weights, of which a folder has `file`."""

    def __init__(self, limit: int, file: str, folders: list[Path]):
        self.limit, self.file = limit, file
        self.used = sum(self.bytes(folder) for folder in folders)

    def bytes(self, folder: Path) -> int:
        """That a folder holds."""
        return (folder / self.file).stat().st_size if (folder / self.file).is_file() else 0

    def takes(self, result: Path, target: Path, what: str) -> bool:
        """Whether a result fits in float16 in place of what `target` holds; it is then counted for that. Why not is
        printed."""
        size = (result / WEIGHTS).stat().st_size // 2
        wanted = self.used - self.bytes(target) + size
        if wanted > self.limit:
            print(f"{what} stays out: {wanted / 2**20:.1f} MiB would be more than {self.limit / 2**20:.0f}")
            return False
        self.used = wanted
        return True

    def loses(self, target: Path) -> None:
        """What `target` holds goes."""
        self.used -= self.bytes(target)


def export(
    study: StudySettings,
    names: list[str],
    folder: Path = published.ASSETS,
    generators: bool = False,
    limit: int = LIMIT,
    generators_limit: int = GENERATORS_LIMIT,
) -> list[Path]:
    """Write the finished tokenizers of these rows, of the first seed that has one, as many as the limit allows beside
    what is there already and stays; with `generators` each with its own where that is finished and fits.

    Returns their folders. ValueError when these are ablations, when none of them is finished or none fits, and when one
    was trained by other settings than the study's.
    """
    asked = [name for name in ORDER if name in names]
    if not asked:
        raise ValueError(f"ablations are not exported: {', '.join(names)}; what can be is {', '.join(ORDER)}")
    runs = {name: run for name in asked if (run := _finished(study, name))}
    if not runs:
        raise ValueError(f"no tokenizer of {', '.join(asked)} is finished in {study.output}; train the study first")
    for run in runs.values():  # all, before anything is written
        _check(run, generators)
    here = list(folder.glob(f"{COMPACT}*"))
    tokenizers = Room(limit, f"vae/{WEIGHTS}", here)
    drawing_room = Room(generators_limit, f"transformer/{WEIGHTS}", here)
    written = []
    for name, run in runs.items():
        target = folder / f"{COMPACT}{name}"
        if not tokenizers.takes(_tokenizer(run), target, name):
            continue
        drawing = _result(run, "generator") if generators else None
        if drawing is None or not drawing_room.takes(drawing, target, f"the generator of {name}"):
            drawing = None
            drawing_room.loses(target)
        written.append(_write(study, run, drawing, target))
    if not written:
        raise ValueError(f"no tokenizer of {', '.join(runs)} fits beside what {folder} holds; remove some of it")
    return written


def _check(run: RowRun, generators: bool) -> None:
    """ValueError when what would be exported was trained by other settings than those that its card would tell."""
    plans = {run.row.phases[-1].name: run.plan(run.row.phases[-1])}
    if generators and _result(run, "generator"):
        plans["generator"] = run.generator_plan(open_model(_tokenizer(run)))
    for name, plan in plans.items():
        file = run.folder / name / "plan.json"
        if not file.is_file() or not plan.is_that_of(json.loads(file.read_text(encoding="utf-8"))):
            raise ValueError(
                f"{run.folder / name} was trained by other settings, or from another representation, than this "
                "study's: export it with those that it was trained with"
            )


def _finished(study: StudySettings, name: str) -> RowRun | None:
    """A row with the first seed whose tokenizer is finished."""
    runs = (RowRun(study, name, seed) for seed in study.seeds)
    return next((run for run in runs if _tokenizer(run)), None)


def _tokenizer(run: RowRun) -> Path | None:
    """The result of a row's last phase, once that is finished."""
    return _result(run, run.row.phases[-1].name)


def _result(run: RowRun, phase: str) -> Path | None:
    """The result of a row's phase, or of its generator, once that is finished."""
    return run.folder / phase / "result" if (run.folder / phase / "finished.json").is_file() else None


def _write(study: StudySettings, run: RowRun, drawing: Path | None, target: Path) -> Path:
    """One folder, in place of what was there."""
    vae = open_model(_tokenizer(run))
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
