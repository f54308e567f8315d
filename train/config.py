"""Training configs: frozen, typed settings read from YAML; unknown keys are errors; `key=value` overrides.

`load_config("stickers-256", ["seed=1", "stages.edit.samples=1000"])` → TrainingConfig.
"""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

CONFIG_FOLDER = Path(__file__).parent / "configs"


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OptimizerSettings(Settings):
    """AdamW for everything; Muon for the matrices inside transformer blocks when `muon_lr` is given."""

    lr: float
    muon_lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0
    # Linear warm-up over this many samples, constant, then linear to `final_lr` times the rate over the last share.
    warmup_samples: int = 0
    decay_share: float = 0.3
    final_lr: float = 0.02


class StageSettings(Settings):
    """What every stage has."""

    samples: int
    batch_size: int
    optimizer: OptimizerSettings
    ema_decay: float = 0.999
    compile: bool = False
    precision: Literal["no", "bf16"] = "bf16"
    log_every: int = 50
    # Checked, drawn as a sheet and logged every so many steps.
    validate_every: int = 500
    checkpoint_minutes: float = 4.0


class RepresentationStage(StageSettings):
    """Stage 0, compact configs only: dense image-text contrast, colour, style, size, place within the object and a
    linear pixel readout, on crops."""

    task: Literal["representation"]
    crop: int = 128
    filtered: float = 0.1
    contrast: float = 1.0
    color: float = 0.5
    style: float = 0.2
    size: float = 0.2
    offset: float = 2.0
    # Without it the pixels are soon beyond any decoder's reach (19 dB by a linear one, 36 dB at the start).
    pixels: float = 20.0


class AutoencoderStage(StageSettings):
    """Stages 1 to 3 of the tokenizer: what trains and which losses count (0 leaves a loss out)."""

    task: Literal["autoencoder"]
    trains: tuple[Literal["encoder", "bridge", "decoder"], ...]
    crop: int | None = 128
    filtered: float = 0.2
    letterboxed: float = 0.1
    l1: float = 1.0
    mse: float = 0.0
    perceptual: float = 0.0
    # The perceptual network costs as much as a compact autoencoder: look at this share of every batch.
    perceptual_share: float = 1.0
    # "adaptive": times |grad rec| / |grad pivot|, the authors' rule; "constant": as it is.
    pivot: float = 0.0
    pivot_weighting: Literal["adaptive", "constant"] = "adaptive"
    pivot_constant_steps: int = 0
    # Where those gradients are measured: the last block's MLP, or the layer scale that the authors' trainer took.
    pivot_parameter: Literal["mlp", "layer_scale"] = "mlp"
    # The adaptive weight costs half a backward pass more: measure it every so many steps (the authors: 1).
    pivot_every: int = 1
    feature_mse: float = 0.0
    kl: float = 0.0
    # Standard deviation ~ U(0, tau) of the noise on what bridge or decoder are given, in units of the features' rms.
    noise_tau: float = 0.0
    # The same on the normalised latent before the bridge decodes it: a diffusion transformer's latents are not exact.
    # Here the deviation is tau * U(0, 1) squared: exact latents, as of an input picture, count most.
    latent_noise_tau: float = 0.0
    # After a bridge's training: so many channels are turned to what a picture shows, see `train.semantic_axes`.
    semantic_channels: int = 0
    semantic_gain: float = 1.0


class DiffusionStage(StageSettings):
    """Text-to-image and editing on the tokenizer's latents. A sample is a scene: two edits of it and two captions."""

    task: Literal["diffusion"]
    # Noise draws per context: the context is time-independent, so its tokens serve several.
    draws: int = 2
    drop_text: float = 0.1
    drop_both: float = 0.05
    time_shift: float = 2.0
    logit_mean: float = 0.0
    logit_std: float = 1.0
    # Times this on tokens that the edit changes.
    changed_weight: float = 1.0


Stage = Annotated[RepresentationStage | AutoencoderStage | DiffusionStage, Field(discriminator="task")]


class ModelSettings(Settings):
    """Sizes, as the models' constructors take them."""

    encoder: dict
    decoder: dict
    bridge: dict
    transformer: dict
    text_encoder: dict
    image_size: int = 256


class SamplingSettings(Settings):
    """The checkpoint's defaults when it draws."""

    num_inference_steps: int = 30
    guidance_scale: float = 3.0
    image_guidance_scale: float = 1.5
    time_shift: float = 2.0


class TrainingConfig(Settings):
    name: str
    # Runs (state to resume from, logs, sample sheets) go here ...
    output: Path
    # ... and what is finished goes here, as the folder that `from_pretrained` and the app read.
    checkpoint: Path
    # A checkpoint whose models the decoder, text and edit stages train further: a new leg.
    init: Path | None = None
    seed: int = 0
    threads: int | None = None
    models: ModelSettings
    sampling: SamplingSettings = SamplingSettings()
    stages: dict[str, Stage]


def load_config(name: str, overrides: list[str] | None = None) -> TrainingConfig:
    """A config by name (train/configs) or path, with overrides like "stages.edit.samples=1000".

    ValueError with every mistake: file not found, unknown key, value of the wrong kind.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else CONFIG_FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in CONFIG_FOLDER.glob("*.yaml")))
        raise ValueError(f"no training config {name!r}; there are: {known}")
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    for override in overrides or []:
        _apply(settings, override)
    settings.setdefault("checkpoint", str(Path(settings.get("output", ".")) / "checkpoint"))
    try:
        return TrainingConfig.model_validate(settings)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (value: {e['input']!r})" for e in error.errors()]
        raise ValueError(f"training config {name!r}: " + "; ".join(lines)) from None


def _apply(settings: dict, override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ValueError(f"an override is key=value, this one is {override!r}")
    *parents, last = key.split(".")
    for parent in parents:
        settings = settings.setdefault(parent, {})
        if not isinstance(settings, dict):
            raise ValueError(f"{parent!r} in {override!r} holds a value, not settings")
    settings[last] = yaml.safe_load(value)
