"""Training configs: frozen, typed settings read from YAML; unknown keys are errors; `key=value` overrides.

`load_config("stickers-256", ["seed=1", "stages.edit.samples=1000"])` → TrainingConfig.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from .data.settings import DataSettings
from .settings import Settings

CONFIG_FOLDER = Path(__file__).parent / "configs"
S = TypeVar("S", bound=Settings)


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
    # Instead of the last share: down between these two sample numbers, then constant, however long the stage is.
    decay_between: tuple[int, int] | None = None
    decay_shape: Literal["linear", "cosine"] = "linear"


class StageSettings(Settings):
    """What every stage has."""

    samples: int
    # Of one step, over all processes.
    batch_size: int = Field(gt=0)
    # A process computes its share of a batch in so many parts: less memory, nearly the same curve (docs/scale.md).
    accumulate: int = Field(1, gt=0)
    optimizer: OptimizerSettings
    ema_decay: float = 0.999
    # The average starts short, (1 + step) / (10 + step); without, `ema_decay` counts from the first step on.
    ema_warmup: bool = True
    # What the next stage is given: the average, or the weights that were trained.
    result: Literal["average", "trained"] = "average"
    compile: bool = False
    precision: Literal["no", "bf16"] = "bf16"
    # Processes that draw or read the data, beside each training process; 0: it does it itself.
    workers: int = Field(0, ge=0)
    log_every: int = 50
    # Where the log goes beside log.jsonl, by Accelerate: "tensorboard", "wandb", ..., if their packages are there.
    trackers: tuple[str, ...] = ()
    # Checked, drawn as a sheet and logged every so many steps.
    validate_every: int = 500
    checkpoint_minutes: float = 4.0
    keep_states: int = Field(2, gt=0)
    # Stop when the loss averaged over `log_every` steps exceeds the lowest so far by this factor.
    diverging: float | None = 10.0

    @field_validator("precision", mode="before")
    @classmethod
    def _no_is_a_word(cls, value: object) -> object:
        """YAML reads a bare "no", as in an override, as false."""
        return "no" if value is False else value


# Settings that do not decide what is learned: a run goes on with others, a finished stage counts with others.
INCIDENTAL = (
    "accumulate", "compile", "workers", "log_every", "trackers", "validate_every", "checkpoint_minutes", "keep_states",
    "diverging",
)  # fmt: skip


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


class DinoSettings(Settings):
    """The discriminator's frozen vision transformer; the defaults are ViT-S/8."""

    hidden_size: int = 384
    num_layers: int = 12
    num_heads: int = 6
    patch_size: int = 8
    input_size: int = 224
    # Tokens after these blocks are judged, counted from 0; those of the last one twice, as the authors have it.
    taps: tuple[int, ...] = (2, 5, 8, 11)


class DiscriminatorSettings(Settings):
    """Heads on a frozen DINO, which learn to tell pictures from reconstructions; the optimiser is the stage's own."""

    # DINO's weights, a .pth file.
    weights: Path
    network: DinoSettings = DinoSettings()
    # It learns from this sample on.
    learns_from: int = 0
    # "own": its rate counts the samples since then, so it warms up there; "shared": it is the stage's.
    schedule: Literal["own", "shared"] = "own"


class AutoencoderStage(StageSettings):
    """Stages 1 to 3 of the tokenizer: what trains and which losses count (0 leaves a loss out)."""

    task: Literal["autoencoder"]
    trains: tuple[Literal["encoder", "bridge", "decoder"], ...]
    # Pictures to learn from, cut to the tokenizer's size; without it sticker scenes, for which the next three are.
    data: DataSettings | None = None
    crop: int | None = 128
    filtered: float = 0.2
    letterboxed: float = 0.1
    # How parts that no stage has trained begin: as the best linear code (see `train.linear_start`), or at random.
    start: Literal["linear", "random"] = "linear"
    l1: float = 1.0
    mse: float = 0.0
    perceptual: float = 0.0
    perceptual_network: Literal["efficientnet-lite0", "lpips-vgg"] = "efficientnet-lite0"
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
    # What the bridge decodes while it trains.
    posterior: Literal["mode", "sample"] = "mode"
    # Standard deviation ~ U(0, tau) of the noise on what bridge or decoder are given, in units of the features' rms.
    noise_tau: float = 0.0
    # The same on the normalised latent before the bridge decodes it: a diffusion transformer's latents are not exact.
    # Here the deviation is tau * U(0, 1) squared: exact latents, as of an input picture, count most.
    latent_noise_tau: float = 0.0
    # After a bridge's training: so many channels are turned to what a picture shows, see `train.semantic_axes`.
    semantic_channels: int = 0
    semantic_gain: float = 1.0
    # Constants that bring the latent to unit scale are measured and kept; without, it is used as it is.
    normalise_latents: bool = True
    # Weight of the generator's loss, times |grad rec| / |grad gan| at the decoder's head, from this sample on.
    gan: float = 0.0
    gan_from: int = 0
    discriminator: DiscriminatorSettings | None = None

    @model_validator(mode="after")
    def _has_an_opponent(self) -> "AutoencoderStage":
        if bool(self.gan) != (self.discriminator is not None):
            raise ValueError("gan and discriminator belong together: give both or none")
        return self


class DiffusionStage(StageSettings):
    """Text-to-image and editing on the tokenizer's latents. A sample is a scene, two edits of it and two captions; or,
    with `data`, one captioned picture or edit."""

    task: Literal["diffusion"]
    # Captions and edits of your own (docs/data.md); without it, sticker scenes.
    data: DataSettings | None = None
    # Noise draws per context: the context is time-independent, so its tokens serve several.
    draws: int = 2
    # Of scenes: this share of them shows no other nouns than these, as `ScenePairs` has it.
    common_nouns: tuple[str, ...] = ()
    common_share: float = Field(default=0.0, ge=0, le=1)
    # What signs say in those scenes; without, any of the vocabulary's words.
    common_words: tuple[str, ...] = ()
    # Of scenes and captions, in place of the vocabulary's own shares (assets/scenes/vocabulary.json, "sampling").
    scene_sampling: dict[str, Any] = {}
    # Of each scene's first edit: how often a category comes, where 1 is what the others do.
    edit_weights: dict[str, float] = {}
    drop_text: float = 0.1
    drop_both: float = 0.05
    time_shift: float = 2.0
    logit_mean: float = 0.0
    logit_std: float = 1.0
    # Times this on tokens that the edit changes.
    changed_weight: float = 1.0
    # Weight of telling which parts of the picture an edit changes, where the transformer's head does
    # (models.transformer.head_change_parts).
    change: float = 0.0
    # Weight of reading what each patch of the result shows from the tokens after `readout_layer` layers.
    readout: float = 0.0
    readout_layer: int = 8

    @model_validator(mode="after")
    def _reads_scenes(self) -> "DiffusionStage":
        if self.readout and self.data is not None:
            raise ValueError("readout asks what sticker scenes show: leave it at 0, or leave data out")
        return self


class ClassConditionalStage(StageSettings):
    """LightningDiT on the tokenizer's latents of pictures in class folders."""

    task: Literal["class-conditional"]
    data: DataSettings
    drop_label: float = 0.1
    time_shift: float = 2.0
    logit_mean: float = 0.0
    logit_std: float = 1.0
    # Folder for the latents of all pictures, written before training; without one, pictures are encoded as they come.
    latents: Path | None = None
    # Points of the authors' grid for the sheets.
    preview_steps: int = 50


Stage = Annotated[
    RepresentationStage | AutoencoderStage | DiffusionStage | ClassConditionalStage, Field(discriminator="task")
]


class ModelSettings(Settings):
    """Sizes, as the models' constructors take them."""

    encoder: dict
    decoder: dict
    bridge: dict
    # For text-to-image and editing.
    transformer: dict | None = None
    text_encoder: dict | None = None
    # For classes: arguments of `LightningDiT2DModel`.
    class_transformer: dict | None = None
    image_size: int = 256
    # Where a dinov2 encoder starts: a folder of transformers', or "hf:facebook/dinov2-with-registers-base".
    encoder_weights: str | None = None


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

    @model_validator(mode="after")
    def _has_what_its_stages_need(self) -> "TrainingConfig":
        for name, stage in self.stages.items():
            if isinstance(stage, DiffusionStage) and not (self.models.transformer and self.models.text_encoder):
                raise ValueError(f"stage {name} needs models.transformer and models.text_encoder")
            if isinstance(stage, ClassConditionalStage) and not self.models.class_transformer:
                raise ValueError(f"stage {name} needs models.class_transformer")
        return self


def as_recorded(stage: StageSettings, recorded: dict) -> dict | None:
    """The settings that a run wrote down, with those that are newer than it at their defaults, which repeat what was
    done before; None when they are no settings of such a stage."""
    try:
        return type(stage).model_validate(recorded).model_dump(mode="json")
    except ValidationError:
        return None


def load_config(name: str, overrides: list[str] | None = None) -> TrainingConfig:
    """A config by name (train/configs) or path, with overrides like "stages.edit.samples=1000".

    ValueError with every mistake: file not found, unknown key, value of the wrong kind.
    """
    settings = read_settings(name, CONFIG_FOLDER, "training config", overrides)
    settings.setdefault("checkpoint", str(Path(settings.get("output", ".")) / "checkpoint"))
    return validated(TrainingConfig, settings, f"training config {name!r}")


def read_settings(
    name: str, folder: Path, what: str, overrides: list[str] | None = None, extending: tuple[Path, ...] = ()
) -> dict:
    """A YAML file by its name in a folder, or by its path, with overrides; `what` it is called in a ValueError.

    A file that says `extends: NAME` has that one's settings wherever it has none of its own; `extending`: the files
    that say so of this one.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise ValueError(f"no {what} {name!r}; there are: {known}")
    if path in extending:
        raise ValueError(f"{path.name} extends itself: {' -> '.join(p.name for p in (*extending, path))}")
    settings = _apart(yaml.safe_load(path.read_text(encoding="utf-8")))
    if "extends" in settings:
        settings = _merged(read_settings(settings.pop("extends"), folder, what, None, (*extending, path)), settings)
    for override in overrides or []:
        _apply(settings, override)
    return settings


def validated(model: type[S], settings: dict, what: str) -> S:
    """Settings of a kind; ValueError with every mistake."""
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (value: {e['input']!r})" for e in error.errors()]
        raise ValueError(f"{what}: " + "; ".join(lines)) from None


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


def _merged(settings: dict, own: dict) -> dict:
    """`settings` with those of `own` in place of theirs, at every depth; what is no dict is replaced whole."""
    merged = dict(settings)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _apart(value):
    """What YAML's aliases share, as copies: an override is meant for one place."""
    if isinstance(value, dict):
        return {key: _apart(one) for key, one in value.items()}
    return [_apart(one) for one in value] if isinstance(value, list) else value
