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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from rpiae.autoencoder import AutoencoderRPiAE
from rpiae.metrics import psnr, ssim
from rpiae.transformer import RPiAETransformer2DModel

from ..config import (
    CONFIG_FOLDER,
    INCIDENTAL,
    AutoencoderStage,
    TrainingConfig,
    load_config,
    read_settings,
    validated,
)
from ..data.pictures import PictureSettings, ScenePictures
from ..linear_start import collect_pictures
from ..loop import Loop
from ..runtime import set_up
from ..settings import Settings
from ..states import write_whole
from ..tasks.autoencoder import AutoencoderTask
from ..tasks.diffusion import DiffusionTask
from .probe import probe

logger = logging.getLogger(__name__)
FOLDER = CONFIG_FOLDER / "trials"
TAG, PICTURES = 51, 64
NEVER = 10**9
# Standard deviation of the noise that reconstructions are also measured under: a transformer's latents are not exact.
NOISE = 0.4


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
    "edit": Column("held-out loss of edits", "{:.3f}"),
    "changed": Column("where they change", "{:.3f}"),
    "caption": Column("of captions", "{:.3f}"),
    "trained": Column("parameters trained", "{:.1f} M"),
    "minutes": Column("minutes", "{:.1f}"),
}


class Group(Settings):
    """Rows that are compared."""

    question: str
    # How many samples each stage learns from.
    stages: dict[str, int]
    # What begins anew; all else is the checkpoint's. A tokenizer whose encoder trains has no bridge yet.
    fresh: tuple[Literal["bridge", "decoder", "transformer"], ...] = ()
    # Overrides of the config, as on the command line: of all rows, and of each.
    settings: tuple[str, ...] = ()
    rows: dict[str, tuple[str, ...]]

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
    groups: dict[str, Group]


@dataclass(frozen=True)
class Trial:
    """One row of a group: the config with its settings, and the same without."""

    group: Group
    config: TrainingConfig
    plain: TrainingConfig

    def plan(self) -> str:
        """SHA-256 of what decides the row's numbers: settings, models, seed, and the weights that it starts from."""
        stages = {name: self.config.stages[name].model_dump(mode="json") for name in self.group.stages}
        kept = {name: {k: v for k, v in stage.items() if k not in INCIDENTAL} for name, stage in stages.items()}
        settings = [kept, self.config.models.model_dump(mode="json"), self.config.seed, self.group.fresh]
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        starts = ["vae"] if self._trains() or "transformer" in self.group.fresh else ["vae", "transformer"]
        for file in sorted(file for part in starts for file in (self.config.checkpoint / part).glob("*.safetensors")):
            digest.update(file.read_bytes())
        return digest.hexdigest()

    def run(self) -> dict[str, float]:
        """Train in <output>/trial, measure and clean up; returns column → number."""
        folder, seconds, trained = self.config.output / "trial", 0.0, 0
        vae = self._vae()
        for name in self.group.stages:
            torch.manual_seed(self.config.seed)
            task = self._task(name, vae, first=trained == 0)
            shutil.rmtree(folder, ignore_errors=True)
            seconds += Loop(task, self.config.stages[name], folder, self.config.seed).run(resume=False).seconds
            task.eval()
            task.export(folder / "result")  # after it a tokenizer knows its latent's scale
            trained += sum(p.numel() for p in task.parameters() if p.requires_grad)
        shutil.rmtree(folder)
        numbers = self._losses(name, task) if isinstance(task, DiffusionTask) else _reconstruction(vae)
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
            return AutoencoderTask(vae, stage, config.seed, fresh if first else ())
        if "transformer" in fresh:
            transformer = RPiAETransformer2DModel(**config.models.transformer)
        else:
            transformer = RPiAETransformer2DModel.from_pretrained(config.checkpoint / "transformer")
        return DiffusionTask(config, stage, vae, transformer)

    def _losses(self, name: str, trained: DiffusionTask) -> dict[str, float]:
        """Held-out losses at the times and weights of the config as it is, whatever the row learned from."""
        plain = self.plain.stages[name].model_copy(update={"readout": 0.0, "change": 0.0})
        task = DiffusionTask(self.config, plain, trained.vae, trained.transformer).eval()
        with torch.no_grad():
            found = task.validate()
        return {column: found[f"held_out_{column}"] for column in ("edit", "changed", "caption")}


@torch.no_grad()
def _reconstruction(vae: AutoencoderRPiAE) -> dict[str, float]:
    """What comes back through a tokenizer, and what a linear probe reads from a cell of its latent."""
    x = collect_pictures(ScenePictures(0, TAG, PICTURES, PictureSettings()), PICTURES).to(vae.device)
    posterior = vae.encode(x).latent_dist
    y = vae.decode(posterior.mode()).sample.clamp(0, 1)
    numbers = {"psnr": psnr(x, y).mean().item(), "ssim": ssim(x, y).mean().item()}
    if vae.bridge is not None:
        noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(TAG)).to(x.device)
        noisy = vae.denormalise(vae.normalise(posterior.mode()) + NOISE * noise)
        again = vae.decode(noisy).sample.clamp(0, 1)
        numbers |= {"noisy_psnr": psnr(x, again).mean().item(), "kl": posterior.kl().item()}
    read = probe(lambda pictures: vae.encode(pictures.to(vae.device)).latent_dist.mode().cpu())
    return numbers | {name: read[name] for name in ("nouns", "colors")}


def load_trials(name: str) -> Trials:
    """Trials by a config's name, or the path of a file; ValueError with every mistake."""
    return validated(Trials, read_settings(name, FOLDER, "trials file"), f"trials {name!r}")


def run(trials: Trials, name: str, overrides: list[str], groups: list[str]) -> None:
    """Train and measure what is missing of some groups; each row is written as it is finished."""
    for title in groups:
        group = trials.groups[title]
        for row, changes in group.rows.items():
            trial = Trial(group, group.config(name, [*overrides, *changes]), group.config(name, overrides))
            plan, found = trial.plan(), _read(trials.results)
            if found.get(title, {}).get(row, {}).get("plan") == plan:
                logger.info("%s, %s: finished, skipped", title, row)
                continue
            logger.info("%s, %s", title, row)
            numbers = trial.run()
            found.setdefault(title, {})[row] = {"settings": list(changes), "plan": plan, "numbers": numbers}
            trials.results.parent.mkdir(parents=True, exist_ok=True)
            write_whole(trials.results, json.dumps(found, indent=1) + "\n")
            write_whole(trials.results.with_suffix(".md"), markdown(trials, found))


def _read(results: Path) -> dict[str, dict[str, Any]]:
    return json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {}


def markdown(trials: Trials, found: dict[str, dict[str, Any]]) -> str:
    """A table for each group of which there are rows, in the trials' order."""
    parts = []
    for title, group in trials.groups.items():
        rows = {row: found[title][row]["numbers"] for row in group.rows if row in found.get(title, {})}
        if not rows:
            continue
        columns = [column for column in COLUMNS if any(column in numbers for numbers in rows.values())]
        lines = [
            "| " + " | ".join(["", *(COLUMNS[column].title for column in columns)]) + " |",
            "|---|" + "---:|" * len(columns),
        ]
        for row, numbers in rows.items():
            cells = (COLUMNS[column].form.format(numbers[column]) if column in numbers else "-" for column in columns)
            lines.append(f"| {row} | " + " | ".join(cells) + " |")
        samples = ", ".join(f"{name} {count:,}" for name, count in group.stages.items())
        fresh = " and ".join(group.fresh) + " anew, " if group.fresh else ""
        parts.append(f"**{group.question}** ({fresh}samples: {samples})\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m train study-settings", description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("settings", nargs="*", help="overrides of the config, for all rows")
    parser.add_argument("--groups", help="some groups, with commas; all when left out")
    parser.add_argument("--trials", help="a YAML file of trials; the config's own when left out")
    options = parser.parse_intermixed_args(arguments)
    set_up(load_config(options.config, options.settings))
    trials = load_trials(options.trials or options.config)
    groups = options.groups.split(",") if options.groups else list(trials.groups)
    if unknown := [group for group in groups if group not in trials.groups]:
        raise ValueError(f"there is no group {', '.join(unknown)}; there are: {', '.join(trials.groups)}")
    run(trials, options.config, options.settings, groups)
    print(markdown(trials, _read(trials.results)))
