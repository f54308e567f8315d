"""The `paper-256` config in tiny, and the files that it wants: made-up weights of the real kinds, made-up pictures."""

import math
from pathlib import Path
from typing import Literal

import torch
from timm.models.vision_transformer import VisionTransformer
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from tests.train.data.files import picture

SIDE, CLASSES, PER_CLASS = 64, 3, 4
ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
DINO = {"hidden_size": 16, "num_layers": 3, "num_heads": 2, "input_size": 32, "taps": [0, 2]}
TOKENIZER_STAGES, CLASS_STAGES = ("pivot", "bridge", "decoder"), ("guide", "class")
SAMPLES = {"pivot": 8, "bridge": 4, "decoder": 8, "guide": 4, "class": 8}


def write_classes(folder: Path) -> Path:
    """Class folders with a few pictures of different shapes, all larger than the tokenizer's."""
    for number in range(CLASSES):
        (folder / f"class-{number}").mkdir(parents=True)
        for i in range(PER_CLASS):
            picture(10 * number + i, 80 + 8 * i, 100 - 8 * i).save(folder / f"class-{number}" / f"{i}.png")
    return folder


def write_dino(path: Path) -> Path:
    """A vision transformer as DINO's file has it, with the final norm that the discriminator leaves out."""
    torch.manual_seed(1)
    network = VisionTransformer(
        img_size=DINO["input_size"], patch_size=8, embed_dim=DINO["hidden_size"], depth=DINO["num_layers"],
        num_heads=DINO["num_heads"], num_classes=0,
    )  # fmt: skip
    torch.save(network.state_dict(), path)
    return path


def write_dinov2(folder: Path) -> Path:
    torch.manual_seed(2)
    config = Dinov2WithRegistersConfig(image_size=70, patch_size=14, num_register_tokens=4, mlp_ratio=4, **ENCODER)
    Dinov2WithRegistersModel(config).save_pretrained(folder)
    return folder


def overrides(folder: Path, **more: object) -> list[str]:
    """What makes the config tiny; everything that it does stays. `folder` is given its files."""
    classes = write_classes(folder / "pictures")
    settings: dict[str, object] = {
        "output": folder / "run",
        "models.image_size": SIDE,
        "models.encoder_weights": write_dinov2(folder / "dinov2"),
        "models.encoder.native_size": 70,
        "models.encoder.input_size": 56,
        "models.encoder.output_grid": 4,
        **{f"models.encoder.{name}": value for name, value in ENCODER.items()},
        "models.bridge": "{latent_channels: 8, decoder_layers: 1}",
        "models.decoder": "{hidden_size: 32, num_layers: 1, num_heads: 2, intermediate_size: 64, grid: 4}",
        "models.class_transformer": "{in_channels: 8, sample_size: 4, hidden_size: 32, num_layers: 2, num_heads: 2, "
        f"feed_forward_size: 64, num_classes: {CLASSES}, time_frequencies: 8}}",
    }
    for stage in TOKENIZER_STAGES + CLASS_STAGES:
        own = {
            "samples": SAMPLES[stage], "batch_size": 2, "workers": 0, "log_every": 1, "validate_every": 4,
            "precision": "no", "data.sources": f"[{{kind: folder, path: {classes}}}]",
        }  # fmt: skip
        if stage in TOKENIZER_STAGES:
            own |= {"data.resize": 96, "optimizer.warmup_samples": 4, "optimizer.decay_between": "[4, 8]"}
        else:
            own |= {"compile": "false", "preview_steps": 3, "optimizer.decay_between": "[4, 8]"}
        if stage in ("pivot", "decoder"):
            # VGG's weights are not on every machine; it has a test of its own.
            own |= {
                "perceptual_network": "efficientnet-lite0", "gan_from": 4, "discriminator.learns_from": 2,
                "discriminator.weights": write_dino(folder / "dino.pth"), "discriminator.network": DINO,
            }  # fmt: skip
        settings |= {f"stages.{stage}.{name}": value for name, value in own.items()}
    settings["stages.pivot.pivot_constant_steps"] = 2
    return [f"{name}={value}" for name, value in (settings | more).items()]


def official_rate(
    step: int,
    steps_per_epoch: int,
    decay: tuple[float, float],
    shape: Literal["cosine", "linear"],
    warmup_epochs: float = 0.0,
    peak: float = 2e-4,
    final: float = 2e-5,
) -> float:
    """The authors' learning rate at a step: warm-up from zero, constant, decay between two epochs, constant.

    Tokenizer stages: decay (1, 16), "cosine", one warm-up epoch. LightningDiT: decay (40, 800), "linear", no warm-up.
    (Reference facts (a).)
    """
    warmup = warmup_epochs * steps_per_epoch
    if step < warmup:
        return peak * (step + 1) / warmup
    begin, end = (epoch * steps_per_epoch for epoch in decay)
    return final + (peak - final) * left(step, begin, end, shape)


def left(now: float, begin: float, end: float, shape: Literal["cosine", "linear"]) -> float:
    """What is left of a decay between two moments: 1 before, 0 afterwards."""
    done = min(max((now - begin) / (end - begin), 0.0), 1.0)
    return 1 - done if shape == "linear" else 0.5 * (1 + math.cos(math.pi * done))
