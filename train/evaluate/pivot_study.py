"""Does the pivot do its work? Stage 1 with and without the pivot loss, from the same start, beside the frozen
representation and the latents after the bridge: what a linear probe reads, and how well pictures come back.

    python -m train study-pivot stickers-256
"""

import json
import logging
from pathlib import Path

import torch

from rpiae.autoencoder import AutoencoderRPiAE
from rpiae.metrics import psnr, ssim

from ..config import TrainingConfig
from ..data.pictures import PictureSettings, ScenePictures
from ..linear_start import collect_pictures
from ..stages import Stages
from .probe import probe

logger = logging.getLogger(__name__)
TAG, PICTURES = 50, 64
STAGE = "pivot"
# Rows that are trained beside the config's own stage 1: what differs.
VARIANTS = {
    "frozen representation": {"trains": ("decoder",), "pivot": 0.0},
    "stage 1 without the pivot loss": {"pivot": 0.0},
}


def run(config: TrainingConfig) -> dict[str, dict[str, float]]:
    """Train what is missing and write pivot-study.json into the config's output; returns row → numbers."""
    folder = config.output / "pivot-study"
    finished = {"stage 1 with the pivot loss": Stages(config).result(STAGE)}
    for name, changes in VARIANTS.items():
        finished[name] = _train(config, folder / name.replace(" ", "-"), changes)
    rows = {}
    for name in ("frozen representation", "stage 1 with the pivot loss", "stage 1 without the pivot loss"):
        vae = AutoencoderRPiAE.from_pretrained(finished[name])
        rows[name] = _row(vae, vae.encode_features)
    vae = AutoencoderRPiAE.from_pretrained(Stages(config).result("bridge"))
    rows["latent after the bridge"] = _row(vae, lambda x: vae.encode(x).latent_dist.mode())
    (folder / "pivot-study.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return rows


def _train(config: TrainingConfig, output: Path, changes: dict) -> Path:
    """Stage 1 with other settings in a folder of its own, from the config's finished representation."""
    stages = dict(config.stages) | {STAGE: config.stages[STAGE].model_copy(update=changes)}
    variant = config.model_copy(update={"output": output, "checkpoint": output / "none", "stages": stages})
    before = list(stages)[list(stages).index(STAGE) - 1]
    output.mkdir(parents=True, exist_ok=True)
    link = output / before
    if not link.exists():
        link.symlink_to((config.output / before).resolve())
    Stages(variant).run(STAGE)
    return Stages(variant).result(STAGE)


@torch.no_grad()
def _row(vae: AutoencoderRPiAE, encode) -> dict[str, float]:
    x = collect_pictures(ScenePictures(0, TAG, PICTURES, PictureSettings()), PICTURES)
    y = vae(x).clamp(0, 1)
    quality = {"psnr": psnr(x, y).mean().item(), "ssim": ssim(x, y).mean().item()}
    return quality | {f"probe_{name}": value for name, value in probe(encode).items()}


def table(rows: dict[str, dict[str, float]]) -> str:
    """The rows as Markdown."""
    lines = ["| | PSNR, dB | SSIM | nouns | colours | places |", "|---|---|---|---|---|---|"]
    for name, row in rows.items():
        shares = " | ".join(f"{100 * row[f'probe_{k}']:.1f} %" for k in ("nouns", "colors", "places"))
        lines.append(f"| {name} | {row['psnr']:.2f} | {row['ssim']:.3f} | {shares} |")
    return "\n".join(lines)
