"""Calibrate keep unchanged pixels: which differences of a latent or of a pixel are the model's own noise.

Runs the checkpoint on validation edits whose true change is known, tries thresholds, and stores the best in the
checkpoint's model_index.json. Best is the largest sum of two shares: of the true change that is covered, and of the
rest that stays untouched, among the settings that leave `KEPT` of it and cover `COVERED`. A model that is unsure where
an edit belongs reaches `KEPT` only by undoing edits: where no setting does both, the sum alone decides.
"""

import itertools
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rpiae import RPiAEPipeline
from rpiae.region import RegionSettings, change_mask, likely_area, snap

from ..data.pictures import to_chw
from ..data.scenes import CATEGORIES, Edit, draw, sample_edit
from ..states import write_whole

TAG = 60
WHOLE_PICTURE = ("background_change", "style_change", "tone_transfer")
LOCAL = tuple(name for name in CATEGORIES if name not in WHOLE_PICTURE)
KEPT, COVERED = 0.95, 0.9
LATENT_THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 1.25, 1.5, 2.0)
# Where the transformer tells what changes; then small differences need not be told from noise by their size alone.
CHANGE_PROBABILITIES, SMALL_LATENT_THRESHOLDS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7), (0.0, 0.1, 0.2, 0.3)
PIXEL_THRESHOLDS = ((0.03, 0.08), (0.05, 0.12), (0.05, 0.2), (0.08, 0.2), (0.1, 0.3), (0.15, 0.4), (0.2, 0.5))
MARGINS = ((2.0, 2.0), (1.0, 1.0))  # dilation and feather
BATCH = 8


@dataclass(frozen=True)
class Trial:
    """Settings, the share of untouched pixels that stayed, and the share of changed pixels that the mask covers."""

    settings: RegionSettings
    kept: float
    covered: float


def validation_edits(per_category: int, seed: int) -> list[Edit]:
    """Local edits, the same for the same seed."""
    rng = np.random.default_rng([seed, TAG])
    return [sample_edit(rng, name) for name in LOCAL for _ in range(per_category)]


def calibrate(pipe: RPiAEPipeline, per_category: int = 8, seed: int = 0) -> tuple[Trial, list[Trial]]:
    """The best trial and all of them."""
    edits = validation_edits(per_category, seed)
    sources = torch.stack([to_chw(draw(edit.source)) for edit in edits]).float() / 255
    targets = torch.stack([to_chw(draw(edit.target)) for edit in edits]).float() / 255
    changed = (sources != targets).any(1, keepdim=True)
    before, after, changes = _latents(pipe, edits, sources, seed)
    grid = itertools.product(LATENT_THRESHOLDS, (0.0,))
    if changes is not None:
        grid = itertools.product(SMALL_LATENT_THRESHOLDS, CHANGE_PROBABILITIES)
    trials = []
    with torch.no_grad():
        decoded_before = _decode(pipe, before)
        for latent_threshold, probability in grid:
            settings = replace(
                RegionSettings(), latent_threshold=latent_threshold, change_probability=probability
            )
            likely = likely_area(changes, settings, sources.shape[-1])
            decoded_after = _decode(pipe, snap(before, after, settings, likely=likely))
            for (low, high), (dilation, feather) in itertools.product(PIXEL_THRESHOLDS, MARGINS):
                settings = replace(settings, low=low, high=high, dilation=dilation, feather=feather)
                mask = change_mask(decoded_before, decoded_after, settings, likely=likely)
                trials.append(Trial(settings, _share(mask == 0, ~changed), _share(mask > 0.5, changed)))
    return choose(trials), trials


def choose(trials: list[Trial]) -> Trial:
    """The best trial, as said above."""
    good = [trial for trial in trials if trial.kept >= KEPT and trial.covered >= COVERED]
    return max(good or trials, key=lambda trial: trial.kept + trial.covered)


def store(folder: Path, settings: RegionSettings) -> None:
    """Write the settings into the checkpoint's index, whole or not at all."""
    index = Path(folder) / "model_index.json"
    content = json.loads(index.read_text(encoding="utf-8")) | {"region": asdict(settings)}
    write_whole(index, json.dumps(content, indent=2, sort_keys=True) + "\n")


def _latents(
    pipe: RPiAEPipeline, edits: list[Edit], sources: Tensor, seed: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Normalised latents of the sources and of the model's edits, and what the transformer tells of their changes."""
    before, after, changes = [], [], []
    for start in range(0, len(edits), BATCH):
        some = edits[start : start + BATCH]
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(some))]
        pictures = [draw(edit.source) for edit in some]
        prompts = [edit.instruction for edit in some]
        edited = pipe(prompts, image=pictures, generator=generators, output_type="latent")
        after.append(edited.images)
        changes.append(edited.changes)
        with torch.no_grad():
            latent = pipe.vae.encode(sources[start : start + BATCH].to(pipe.device)).latent_dist.mode()
        before.append(pipe.vae.normalise(latent))
    return torch.cat(before).float(), torch.cat(after).float(), None if changes[0] is None else torch.cat(changes)


def _decode(pipe: RPiAEPipeline, latents: Tensor) -> Tensor:
    parts = [pipe.vae.decode(pipe.vae.denormalise(part)).sample for part in latents.split(BATCH)]
    return torch.cat(parts).float().clamp(0, 1).cpu()


def _share(hit: Tensor, among: Tensor) -> float:
    """Mean over pictures of the share of `among` where `hit` is true."""
    per_picture = (hit & among).flatten(1).sum(1) / among.flatten(1).sum(1).clamp_min(1)
    return per_picture.mean().item()


