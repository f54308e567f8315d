"""What do single settings do? Short trials from one start, a table a group.

    python -m train study-settings stickers-256      # all groups of train/configs/trials/stickers-256.yaml
    python -m train study-settings stickers-256 --groups bridge,decoder

Every row goes to the trials' results file, and into the table beside it, as it is finished. One that is there is
skipped, unless its settings or the checkpoint that it starts from have changed since.
"""

import argparse
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field

from rpiae.autoencoder import AutoencoderRPiAE
from rpiae.metrics import psnr, ssim
from rpiae.transformer import RPiAETransformer2DModel

from ..config import (
    CONFIG_FOLDER,
    INCIDENTAL,
    AutoencoderStage,
    DiffusionStage,
    TrainingConfig,
    load_config,
    read_settings,
    validated,
)
from ..data.pictures import PictureSettings, ScenePictures
from ..linear_start import collect_pictures
from ..loop import Loop
from ..runtime import process_count, set_up
from ..settings import Settings
from ..states import claimed, write_whole
from ..tasks.autoencoder import AutoencoderTask
from ..tasks.diffusion import DiffusionTask
from .probe import probe

logger = logging.getLogger(__name__)
FOLDER = CONFIG_FOLDER / "trials"
TAG, PICTURES = 51, 64
NEVER = 10**9
# Standard deviation of the noise that reconstructions are also measured under: a transformer's latents are not exact.
NOISE = 0.4
# Losses of transformers are measured at the same times, wherever a row looks most in training: spread over the grid of
# the sampler, which has its own shift, and over all of them evenly.
JUDGED = {"readout": 0.0, "change": 0.0, "logit_std": 1.5}


class Column(NamedTuple):
    title: str
    form: str


COLUMNS = {
    "psnr": Column("PSNR, dB", "{:.2f}"),
    "ssim": Column("SSIM", "{:.3f}"),
    "noisy_psnr": Column(f"PSNR, noise of {NOISE} on the latent", "{:.2f}"),
    "nouns": Column("nouns read", "{:.1%}"),
    "colors": Column("colours read", "{:.1%}"),
    "kl": Column("KL", "{:.2f}"),
    "edit": Column("held-out loss of edits, the sampler's times", "{:.4f}"),
    "changed": Column("where they change", "{:.4f}"),
    "caption": Column("of captions", "{:.4f}"),
    "edit_evenly": Column("of edits, times evenly", "{:.4f}"),
    "caption_evenly": Column("of captions", "{:.4f}"),
    "trained": Column("parameters trained", "{:.1f} M"),
    "minutes": Column("minutes", "{:.1f}"),
}


class Group(Settings):
    """Rows that are compared."""

    question: str
    # How many samples each stage learns from.
    stages: dict[str, int] = Field(min_length=1)
    # What begins anew; all else is the checkpoint's. A tokenizer whose encoder trains has no bridge yet.
    fresh: tuple[Literal["bridge", "decoder", "transformer"], ...] = ()
    # Overrides of the config, as on the command line: of all rows, and of each.
    settings: tuple[str, ...] = ()
    rows: dict[str, tuple[str, ...]] = Field(min_length=1)

    def config(self, name: str, overrides: list[str]) -> TrainingConfig:
        """The config that a row is trained by; nothing is compiled, which costs minutes, or checked on the way."""
        own = list(self.settings)
        for stage, samples in self.stages.items():
            changes = (f"samples={samples}", f"validate_every={NEVER}", "compile=false")
            own += [f"stages.{stage}.{change}" for change in changes]
        return load_config(name, [*own, *overrides])


class Trials(Settings):
    # A JSON file: group → row → settings and numbers.
    results: Path
    groups: dict[str, Group] = Field(min_length=1)


@dataclass(frozen=True)
class Trial:
    """One row of a group.

    Args:
        config: with the row's settings; `plain`: without. All numbers are measured by the plain one's.
    """

    group: Group
    config: TrainingConfig
    plain: TrainingConfig

    def check(self) -> None:
        """ValueError for what no trial can do."""
        for name in self.group.stages:
            if not isinstance(self.config.stages[name], AutoencoderStage | DiffusionStage):
                raise ValueError(f"stage {name} cannot be tried: trials are of tokenizers and transformers with text")
        for part in ("encoder", "bridge", "decoder", "transformer"):
            one, other = (getattr(config.models, part) for config in (self.config, self.plain))
            if one != other and part not in self.group.fresh:
                raise ValueError(f"a row changes models.{part}, which begins as the checkpoint's: say fresh: [{part}]")

    def basis(self) -> str:
        """SHA-256 of what all rows of the group have in common: plain settings, and the weights that they start at."""
        parts = ["vae"] if self._trains() or "transformer" in self.group.fresh else ["vae", "transformer"]
        digest = hashlib.sha256(_settings(self.group, self.plain))
        for file in sorted(file for part in parts for file in (self.config.checkpoint / part).iterdir()):
            digest.update(file.read_bytes())
        return digest.hexdigest()

    def plan(self) -> str:
        """SHA-256 of all that decides the row's numbers."""
        return hashlib.sha256(self.basis().encode() + _settings(self.group, self.config)).hexdigest()

    def run(self) -> dict[str, float]:
        """Train in <output>/trial, measure and clean up; returns column → number."""
        folder, seconds, trained = self.config.output / "trial", 0.0, 0
        torch.manual_seed(self.config.seed)  # of what the new parts begin with
        vae = self._vae()
        for number, name in enumerate(self.group.stages):
            torch.manual_seed(self.config.seed)
            task = self._task(name, vae, first=number == 0)
            shutil.rmtree(folder, ignore_errors=True)
            seconds += Loop(task, self.config.stages[name], folder, self.config.seed).run(resume=False).seconds
            task.eval()
            task.export(folder / "result")  # after it a tokenizer knows its latent's scale
            trained += sum(p.numel() for p in task.parameters() if p.requires_grad)
        shutil.rmtree(folder)
        numbers = self._losses(name, task) if isinstance(task, DiffusionTask) else self._reconstruction(vae)
        return numbers | {"trained": trained / 1e6, "minutes": seconds / 60}

    def _vae(self) -> AutoencoderRPiAE:
        """The checkpoint's tokenizer, with new parts in place of those that begin anew."""
        models, fresh = self.config.models, self.group.fresh
        start = AutoencoderRPiAE.from_pretrained(self.config.checkpoint / "vae")
        bridge = None if "encoder" in self._trains() else models.bridge
        constants = {name: start.config[name] for name in ("latents_mean", "latents_scale") if "bridge" not in fresh}
        vae = AutoencoderRPiAE(models.encoder, models.decoder, bridge, models.image_size, **constants)
        for name in {"encoder", "bridge", "decoder"} - set(fresh):
            if (part := getattr(vae, name)) is not None:
                part.load_state_dict(getattr(start, name).state_dict())
        return vae

    def _trains(self) -> set[str]:
        stages = (self.config.stages[name] for name in self.group.stages)
        return {part for stage in stages if isinstance(stage, AutoencoderStage) for part in stage.trains}

    def _task(self, name: str, vae: AutoencoderRPiAE, first: bool) -> AutoencoderTask | DiffusionTask:
        stage, config, fresh = self.config.stages[name], self.config, self.group.fresh
        if isinstance(stage, AutoencoderStage):
            return AutoencoderTask(vae, stage, config.seed, fresh if first and stage.start == "linear" else ())
        if "transformer" in fresh:
            transformer = RPiAETransformer2DModel(**config.models.transformer)
        else:
            transformer = RPiAETransformer2DModel.from_pretrained(config.checkpoint / "transformer")
        return DiffusionTask(config, stage, vae, transformer)

    def _losses(self, name: str, trained: DiffusionTask) -> dict[str, float]:
        """Held-out losses on the same scenes, noise and times for every row."""
        config = self.config.model_copy(update={"seed": self.plain.seed})
        # What changes is counted by whole tokens, which are others when they are smaller.
        alike = self.config.models.transformer["patch_size"] == self.plain.models.transformer["patch_size"]
        numbers = {}
        for times, shift in {"": config.sampling.time_shift, "_evenly": 1.0}.items():
            stage = self.plain.stages[name].model_copy(update=JUDGED | {"time_shift": shift})
            task = DiffusionTask(config, stage, trained.vae, trained.transformer)
            with torch.no_grad():
                found = task.to(trained.vae.device).eval().validate()
            columns = ("edit", "changed", "caption") if alike else ("edit", "caption")
            numbers |= {column + times: found[f"held_out_{column}"] for column in columns if column + times in COLUMNS}
        return numbers

    @torch.no_grad()
    def _reconstruction(self, vae: AutoencoderRPiAE) -> dict[str, float]:
        """What comes back through a tokenizer, and, where that was trained, what a linear probe reads from a cell."""
        pictures = ScenePictures(self.plain.seed, TAG, PICTURES, PictureSettings())
        x = collect_pictures(pictures, PICTURES).to(vae.device)
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.mode()).sample.clamp(0, 1)
        numbers = {"psnr": psnr(x, y).mean().item(), "ssim": ssim(x, y).mean().item()}
        if vae.bridge is not None:
            noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(TAG)).to(x.device)
            noisy = vae.denormalise(vae.normalise(posterior.mode()) + NOISE * noise)
            numbers["noisy_psnr"] = psnr(x, vae.decode(noisy).sample.clamp(0, 1)).mean().item()
        if "bridge" in self._trains():
            numbers["kl"] = posterior.kl().item()
        if self._trains() & {"encoder", "bridge"}:
            read = probe(lambda some: vae.encode(some.to(vae.device)).latent_dist.mode().cpu(), self.plain.seed)
            numbers |= {name: read[name] for name in ("nouns", "colors")}
        return numbers


def _settings(group: Group, config: TrainingConfig) -> bytes:
    """What decides numbers of a config, for a digest."""
    stages = {name: config.stages[name].model_dump(mode="json") for name in group.stages}
    kept = {name: {k: v for k, v in stage.items() if k not in INCIDENTAL} for name, stage in stages.items()}
    decisive = [kept, config.models.model_dump(mode="json"), config.seed, group.fresh]
    if any(isinstance(config.stages[name], DiffusionStage) for name in group.stages):
        decisive.append(config.sampling.time_shift)  # at its times losses are measured
    return json.dumps(decisive, sort_keys=True).encode()


def load_trials(name: str) -> Trials:
    """Trials by a config's name, or the path of a file; ValueError with every mistake."""
    return validated(Trials, read_settings(name, FOLDER, "trials file"), f"trials {name!r}")


def chosen(trials: Trials, names: str | None) -> list[str]:
    """Names of groups with commas → those groups, all without; ValueError for a name that there is not."""
    wanted = [name.strip() for name in names.split(",") if name.strip()] if names else list(trials.groups)
    if unknown := [name for name in wanted if name not in trials.groups]:
        raise ValueError(f"there is no group {', '.join(unknown)}; there are: {', '.join(trials.groups)}")
    return wanted


def planned(trials: Trials, name: str, overrides: list[str], groups: list[str]) -> Iterator[tuple[str, str, Trial]]:
    """Group, row and trial of all rows of some groups, each of which can be run."""
    for title in groups:
        group = trials.groups[title]
        for row, changes in group.rows.items():
            trial = Trial(group, group.config(name, [*overrides, *changes]), group.config(name, overrides))
            trial.check()
            yield title, row, trial


def run(trials: Trials, name: str, overrides: list[str], groups: list[str]) -> None:
    """Train and measure what is missing of some groups; each row is written as it is finished."""
    for title, row, trial in list(planned(trials, name, overrides, groups)):  # every mistake before the first hour
        plan = trial.plan()
        if read(trials.results).get(title, {}).get(row, {}).get("plan") == plan:
            logger.info("%s, %s: finished, skipped", title, row)
            continue
        logger.info("%s, %s", title, row)
        numbers = trial.run()
        found = read(trials.results)  # again: another process may have finished rows of other groups
        found.setdefault(title, {})[row] = {"numbers": numbers, "basis": trial.basis(), "plan": plan}
        trials.results.parent.mkdir(parents=True, exist_ok=True)
        write_whole(trials.results, json.dumps(found, indent=1) + "\n")
        write_whole(trials.results.with_suffix(".md"), markdown(trials, found))


def read(results: Path) -> dict[str, dict[str, Any]]:
    """Group → row → numbers and hashes, of what is finished."""
    return json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {}


def markdown(trials: Trials, found: dict[str, dict[str, Any]]) -> str:
    """A table for each group of which there are rows, in the trials' order; rows that were trained from another start
    than the first one's are left out."""
    parts = []
    for title, group in trials.groups.items():
        rows = {row: found[title][row] for row in group.rows if row in found.get(title, {})}
        bases = [one["basis"] for one in rows.values()]
        numbers = {row: one["numbers"] for row, one in rows.items() if one["basis"] == bases[0]}
        if not numbers:
            continue
        columns = {name: column for name, column in COLUMNS.items() if any(name in row for row in numbers.values())}
        lines = [" | ".join(["| ", *(column.title for column in columns.values())]) + " |"]
        lines.append("|---|" + "---:|" * len(columns))
        for row, values in numbers.items():
            cells = [column.form.format(values[name]) if name in values else "-" for name, column in columns.items()]
            lines.append(" | ".join([f"| {row}", *cells]) + " |")
        samples = ", ".join(f"{name} {count:,}" for name, count in group.stages.items())
        fresh = " and ".join(group.fresh) + " anew; " if group.fresh else ""
        parts.append(f"**{group.question}** ({fresh}samples: {samples})\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m train study-settings", description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("settings", nargs="*", help="overrides of the config, for all rows")
    parser.add_argument("--groups", help="some groups, with commas; all when left out")
    parser.add_argument("--trials", help="a YAML file of trials; the config's own when left out")
    options = parser.parse_intermixed_args(arguments)
    config = load_config(options.config, options.settings)
    set_up(config)
    if process_count() > 1:
        raise ValueError("trials run in one process: start them without accelerate launch, or groups apart by --groups")
    trials = load_trials(options.trials or options.config)
    with claimed(config.output):
        run(trials, options.config, options.settings, chosen(trials, options.groups))
    print(markdown(trials, read(trials.results)))
