"""What a stage will cost, before it starts: parameters, FLOPs, memory and hours, from models on the meta device."""

from dataclasses import dataclass

import torch
import yaml
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rpiae.autoencoder import AutoencoderRPiAE
from rpiae.encoder import build_encoder
from rpiae.text import TextStates
from rpiae.transformer import RPiAETransformer2DModel

from .config import AutoencoderStage, DiffusionStage, RepresentationStage, TrainingConfig
from .data.pairs import PICTURES, SAMPLES

# Sustained training rates in FLOP/s, for the hours: measured on two Zen 5 cores (bf16 autocast); the H100's is 40 % of
# its dense bf16 peak, an assumption.
RATES = {"2 CPU cores": 0.2e12, "one H100": 400e12}
# Weights, gradient, two optimiser moments and the average, all float32.
BYTES_PER_TRAINABLE, BYTES_PER_FROZEN = 20, 4
BACKWARD = 3  # a training step costs about three forward passes


@dataclass(frozen=True)
class Cost:
    trainable: int
    total: int
    flops_per_sample: float
    samples: int

    @property
    def memory_gib(self) -> float:
        """Weights and optimiser state; activations come on top."""
        return (self.trainable * BYTES_PER_TRAINABLE + (self.total - self.trainable) * BYTES_PER_FROZEN) / 2**30

    def hours(self, rate: float) -> float:
        return self.samples * self.flops_per_sample / rate / 3600


def describe(config: TrainingConfig, names: list[str]) -> str:
    """Resolved settings as YAML, then what each stage costs."""
    lines = [yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)]
    for name in names:
        cost = stage_cost(config, name)
        lines += [
            f"{name}:",
            f"  trainable parameters: {cost.trainable}",
            f"  total parameters: {cost.total}",
            f"  GFLOP per sample: {cost.flops_per_sample / 1e9:.1f}",
            f"  samples: {cost.samples}",
            f"  memory without activations, GiB: {cost.memory_gib:.2f}",
            *(f"  hours on {machine}: {cost.hours(rate):.2f}" for machine, rate in RATES.items()),
        ]
    return "\n".join(lines)


def stage_cost(config: TrainingConfig, name: str) -> Cost:
    """The cost of one stage of a config."""
    stage = config.stages[name]
    with torch.device("meta"):
        if isinstance(stage, RepresentationStage):
            encoder = build_encoder(config.models.encoder, config.models.image_size)
            flops = BACKWARD * _flops(encoder, torch.zeros(1, 3, stage.crop, stage.crop))
            count = _count(encoder)
            return Cost(count, count, flops, stage.samples)
        if isinstance(stage, AutoencoderStage):
            return _autoencoder_cost(config, name, stage)
        assert isinstance(stage, DiffusionStage)
        return _diffusion_cost(config, stage)


def _autoencoder_cost(config: TrainingConfig, name: str, stage: AutoencoderStage) -> Cost:
    models = config.models
    names = [n for n, s in config.stages.items() if isinstance(s, AutoencoderStage)]
    bridge = None if name == names[0] else models.bridge
    vae = AutoencoderRPiAE(models.encoder, models.decoder, bridge, models.image_size)
    side = stage.crop or models.image_size
    trainable = sum(_count(getattr(vae, part)) for part in stage.trains)
    total = _count(vae) + (_count(vae.encoder) if stage.pivot else 0)
    flops = _flops(vae, torch.zeros(1, 3, side, side)) * (BACKWARD if "encoder" in stage.trains else 2.5)
    return Cost(trainable, total, flops, stage.samples)


def _diffusion_cost(config: TrainingConfig, stage: DiffusionStage) -> Cost:
    models = config.models
    transformer = RPiAETransformer2DModel(**models.transformer)
    vae = AutoencoderRPiAE(models.encoder, models.decoder, models.bridge, models.image_size)
    settings = transformer.config
    slots = (SAMPLES, settings.text_slots)
    text = TextStates(torch.zeros(*slots, settings.text_width), torch.zeros(slots, dtype=torch.bool))
    source = torch.zeros(SAMPLES, *vae.latent_shape)
    x_t = torch.zeros(SAMPLES * stage.draws, *vae.latent_shape)
    step = _flops(transformer, x_t, torch.zeros(len(x_t)), text=text, source=source)
    pictures = torch.zeros(PICTURES, 3, models.image_size, models.image_size)
    encode = _flops(lambda x: vae.bridge.encode(vae.encoder(x)), pictures)
    return Cost(_count(transformer), _count(transformer) + _count(vae), BACKWARD * step + encode, stage.samples)


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@torch.no_grad()
def _flops(module, *inputs: Tensor, **named) -> float:
    """Floating point operations of one forward pass (2 per multiply-add)."""
    with FlopCounterMode(display=False) as counter:
        module(*inputs, **named)
    return float(counter.get_total_flops())
