"""Does the pivot do its work? Stage 1 with and without the pivot loss, from the same start, beside the frozen
representation and the latents after the bridge: what a linear probe reads, and how well pictures come back.

    python -m train study-pivot stickers-256
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from rpiae.autoencoder import AutoencoderRPiAE
from rpiae.metrics import psnr, ssim

from ..config import TrainingConfig
from ..data.pictures import PATCH, PictureSettings, ScenePictures
from ..data.scenes import VOCABULARY
from ..linear_start import collect_pictures
from ..stages import Stages
from .probe import probe

logger = logging.getLogger(__name__)
TAG, PICTURES = 50, 64
GRID = (VOCABULARY.canvas // PATCH, VOCABULARY.canvas // PATCH)  # of the labels that probes read
STAGE = "pivot"
# Rows that are trained beside the config's own stage 1: what differs.
VARIANTS = {
    "frozen representation": {"trains": ("decoder",), "pivot": 0.0},
    "stage 1 without the pivot loss": {"pivot": 0.0},
}


def run(config: TrainingConfig) -> dict[str, dict[str, float]]:
    """Train what is missing and write pivot-study.json into the config's output; returns row → numbers.

    The tokenizer's stages up to the bridge are trained in the config's own output, unless they are finished there: a
    checkpoint has the last stage's weights, and no stage before it.
    """
    folder = config.output / "pivot-study"
    base = Stages(config.model_copy(update={"checkpoint": folder / "none"}))
    for name in list(config.stages)[: list(config.stages).index("bridge") + 1]:
        base.run(name)
    finished = {"stage 1 with the pivot loss": base.result(STAGE)}
    for name, changes in VARIANTS.items():
        finished[name] = _train(config, folder / name.replace(" ", "-"), changes)
    rows = {}
    for name in ("frozen representation", "stage 1 with the pivot loss", "stage 1 without the pivot loss"):
        vae = AutoencoderRPiAE.from_pretrained(finished[name])
        rows[name] = _row(vae, vae.encode_features)
    vae = AutoencoderRPiAE.from_pretrained(base.result("bridge"))
    rows["latent after the bridge"] = _row(vae, lambda x: vae.encode(x).latent_dist.mode())
    rows["blind: the commonest answer"] = _read(lambda x: x.new_zeros(len(x), 1, *GRID))
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
def _row(vae: AutoencoderRPiAE, encode: Callable[[Tensor], Tensor]) -> dict[str, float]:
    x = collect_pictures(ScenePictures(0, TAG, PICTURES, PictureSettings()), PICTURES)
    y = vae(x).clamp(0, 1)
    return {"psnr": psnr(x, y).mean().item(), "ssim": ssim(x, y).mean().item()} | _read(encode)


def _read(encode: Callable[[Tensor], Tensor]) -> dict[str, float]:
    return {f"probe_{name}": value for name, value in probe(encode).items()}


def table(rows: dict[str, dict[str, float]]) -> str:
    """The rows as Markdown."""
    lines = ["| | PSNR, dB | SSIM | nouns | colours | places |", "|---|---|---|---|---|---|"]
    for name, row in rows.items():
        shares = " | ".join(f"{100 * row[f'probe_{k}']:.1f} %" for k in ("nouns", "colors", "places"))
        quality = f"{row['psnr']:.2f} | {row['ssim']:.3f}" if "psnr" in row else "- | -"
        lines.append(f"| {name} | {quality} | {shares} |")
    return "\n".join(lines)
