"""What a config will cost, before it starts: parameters, FLOPs, memory and hours, from models on the meta device."""

from collections.abc import Callable
from dataclasses import dataclass

import timm
import torch
import yaml
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import vgg16
from transformers import AutoConfig, AutoModel

from rpiae.autoencoder import AutoencoderRPiAE
from rpiae.encoder import build_encoder
from rpiae.lightning_dit import LightningDiT2DModel
from rpiae.text import TextStates, find_weights
from rpiae.transformer import RPiAETransformer2DModel

from .config import AutoencoderStage, ClassConditionalStage, DiffusionStage, RepresentationStage, TrainingConfig
from .data.pairs import PICTURES, SAMPLES
from .data.reader import open_source
from .data.settings import SourceSettings
from .discriminator import Discriminator

# Weights, gradient, two optimiser moments and the average, all float32.
BYTES_PER_TRAINABLE, BYTES_PER_FROZEN = 20, 4
# Of a module in a training step, in forward passes: it trains; it does not, but a gradient passes through it.
TRAINS, PASSES = 3, 2
IMAGENET_PICTURES = 1_281_167
EPOCHS = (80, 800)
# What the driver, buffers of the libraries and fragmentation leave of a GPU's memory: an assumption.
USABLE = 0.9


@dataclass(frozen=True)
class Machine:
    """peak: FLOP/s of dense bf16 matrix products; share: of it that training sustains."""

    name: str
    peak: float
    share: float
    memory_gib: float | None = None

    @property
    def said(self) -> str:
        """Where the rate comes from."""
        if self.memory_gib is None:
            return f"{self.peak / 1e12:g} TFLOP/s, measured"
        return f"{self.share:.0%} of {self.peak / 1e12:g} TFLOP/s, assumed"

    def hours(self, flops: float) -> float:
        return flops / (self.peak * self.share) / 3600


MACHINES = (
    Machine("2 CPU cores", 0.2e12, 1.0),  # sustained in training on two Zen 5 cores, bf16 autocast
    Machine("one A100", 312e12, 0.4, 80),
    Machine("one H100", 989e12, 0.4, 80),
    Machine("one H200", 989e12, 0.4, 141),
)


@dataclass(frozen=True)
class Cost:
    """trainable: parameters, a discriminator's heads included; activations: bytes kept for the backward pass of one
    sample, float32; total: the parameters of all that lies in memory, those of the networks that judge and of the text
    encoder included; notes: what is not counted, or only supposed."""

    trainable: int
    total: int
    flops_per_sample: float
    activations: float
    samples: int
    pictures_per_sample: int = 1
    text_encoder: int = 0
    notes: tuple[str, ...] = ()

    @property
    def flops(self) -> float:
        return self.samples * self.flops_per_sample

    @property
    def memory_gib(self) -> float:
        """Weights and optimiser state; activations come on top."""
        return (self.trainable * BYTES_PER_TRAINABLE + (self.total - self.trainable) * BYTES_PER_FROZEN) / 2**30

    def samples_at_a_time(self, machine: Machine) -> int:
        """How many samples one process can compute at a time on a GPU."""
        left = USABLE * machine.memory_gib - self.memory_gib
        return max(0, int(left / (self.activations / 2**30)))


def describe(config: TrainingConfig, names: list[str]) -> str:
    """Resolved settings as YAML, then what each stage costs, then all of them."""
    lines = [yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)]
    costs = {name: stage_cost(config, name) for name in names}
    for name, cost in costs.items():
        lines += [
            f"{name}:",
            f"  trainable parameters: {cost.trainable}",
            f"  total parameters: {cost.total}",
            *([f"  of these the frozen text encoder's: {cost.text_encoder}"] if cost.text_encoder else []),
            f"  GFLOP per sample: {cost.flops_per_sample / 1e9:.1f}",
            f"  samples: {cost.samples}",
            f"  pictures of a sample: {cost.pictures_per_sample}",
            f"  memory without activations, GiB: {cost.memory_gib:.2f}",
            f"  activations of one sample in float32, GiB: {cost.activations / 2**30:.3f}",
            *(f"  hours on {machine.name}: {machine.hours(cost.flops):.3f}" for machine in MACHINES),
            *(
                f"  samples at a time on {machine.name} ({machine.memory_gib:g} GiB): "
                f"{cost.samples_at_a_time(machine) or 'none'}"
                for machine in MACHINES
                if machine.memory_gib
            ),
        ]
        lines += [f"  {note}" for note in cost.notes]
        if isinstance(config.stages[name], ClassConditionalStage):
            lines += [f"  {line}" for line in _epochs(cost)]
    pictures = sum(cost.samples * cost.pictures_per_sample for cost in costs.values())
    lines += ["all of it:" if len(names) > 1 else "pictures:", f"  pictures: {pictures}"]
    if len(names) > 1:
        total = sum(cost.flops for cost in costs.values())
        lines += [f"  hours on {machine.name}: {machine.hours(total):.3f}" for machine in MACHINES]
    lines += ["machines:", *(f"  {machine.name}: {machine.said}" for machine in MACHINES)]
    return "\n".join(lines)


def _epochs(cost: Cost) -> list[str]:
    """Hours for the numbers of epochs that papers compare at."""
    return [
        f"{count} epochs of ImageNet, hours on {machine.name}: "
        f"{machine.hours(count * IMAGENET_PICTURES * cost.flops_per_sample):.1f}"
        for count in EPOCHS
        for machine in MACHINES[1:]
    ]


def stage_cost(config: TrainingConfig, name: str) -> Cost:
    """The cost of one stage of a config."""
    stage = config.stages[name]
    with torch.device("meta"):
        if isinstance(stage, RepresentationStage):
            encoder = build_encoder(config.models.encoder, config.models.image_size)
            picture = torch.zeros(1, 3, stage.crop, stage.crop)
            count = _count(encoder)
            return Cost(
                count, count, TRAINS * _flops(encoder, picture), _activations(encoder, lambda: encoder(picture)),
                stage.samples,
            )  # fmt: skip
        if isinstance(stage, AutoencoderStage):
            return _autoencoder_cost(config, name, stage)
        if isinstance(stage, DiffusionStage):
            return _diffusion_cost(config, stage)
        assert isinstance(stage, ClassConditionalStage)
        return _class_cost(config, stage)


def _autoencoder_cost(config: TrainingConfig, name: str, stage: AutoencoderStage) -> Cost:
    models = config.models
    names = [n for n, s in config.stages.items() if isinstance(s, AutoencoderStage)]
    bridge = None if name == names[0] else models.bridge
    vae = AutoencoderRPiAE(models.encoder, models.decoder, bridge, models.image_size)
    side = models.image_size if stage.data is not None else stage.crop or models.image_size
    picture = torch.zeros(1, 3, side, side)
    with torch.no_grad():
        features = vae.encode_features(picture)
    forward = {"encoder": _flops(vae.encode_features, picture)}
    if vae.bridge is not None:
        forward["bridge"] = _flops(lambda x: vae.bridge.decode(vae.bridge.encode(x).mode()), features)
    forward["decoder"] = _flops(vae.decoder, features)
    flops, gradient = 0.0, 1
    for part, once in forward.items():
        getattr(vae, part).requires_grad_(part in stage.trains)
        flops += once * (TRAINS if part in stage.trains else gradient)
        gradient = max(gradient, PASSES if part in stage.trains else 1)
    judges, looked, heads = nn.ModuleList(), 0.0, 0
    if stage.perceptual:
        judges.append(_perceptual_network(stage.perceptual_network))
        looked = stage.perceptual_share * _flops(judges[-1], picture)
        flops += (1 + PASSES) * looked
    if stage.pivot:
        flops += forward["encoder"]
        if stage.pivot_weighting == "adaptive":  # once more back from the reconstruction loss to the encoder's end
            flops += (looked + forward["decoder"]) / stage.pivot_every
    if stage.discriminator is not None:
        discriminator = Discriminator(stage.discriminator.network)
        judges.append(discriminator)
        heads = _count(discriminator.heads)
        judged, frozen = _flops(discriminator, picture), _flops(discriminator.features, picture)
        # Its weight takes both losses back to the decoder's end once more.
        flops += _share_from(stage.gan_from, stage.samples) * ((PASSES + 1) * judged + looked)
        # It learns from a picture and a new reconstruction of it.
        learns = 2 * (frozen + TRAINS * (judged - frozen)) + sum(forward.values())
        flops += _share_from(stage.discriminator.learns_from, stage.samples) * learns
    judges.eval().requires_grad_(False)

    def step() -> list:
        reconstruction = vae(picture)
        return [reconstruction, *(judge(reconstruction) for judge in judges)]

    trainable = heads + sum(parameter.numel() for parameter in vae.parameters() if parameter.requires_grad)
    total = _count(vae) + (_count(vae.encoder) if stage.pivot else 0) + _count(judges)
    return Cost(trainable, total, flops, _activations(nn.ModuleList([vae, judges]), step), stage.samples)


def _share_from(first: int, samples: int) -> float:
    """Of a stage's samples, from this one on."""
    return max(0, samples - first) / samples


def _perceptual_network(name: str) -> nn.Module:
    """What `train.perceptual` computes, without its weights."""
    if name == "lpips-vgg":
        return vgg16(weights=None).features[:30]
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    return nn.Sequential(network.conv_stem, network.bn1, *network.blocks[:4])


def _diffusion_cost(config: TrainingConfig, stage: DiffusionStage) -> Cost:
    models = config.models
    transformer = RPiAETransformer2DModel(**models.transformer)
    vae = AutoencoderRPiAE(models.encoder, models.decoder, models.bridge, models.image_size)
    settings = transformer.config
    samples, pictures, notes = SAMPLES, PICTURES, []
    if stage.data is not None:
        # A captioned picture, or an edit, of two; where there are edits, captions have a black one beside theirs.
        kinds = [(source.path, _holds_edits(source)) for source in stage.data.sources]
        samples, pictures = 1, 1 if all(edits is False for _, edits in kinds) else 2
        notes += [f"{path}: not read here, taken for edits" for path, edits in kinds if edits is None]
    slots = (samples, settings.text_slots)
    text = TextStates(torch.zeros(*slots, settings.text_width), torch.zeros(slots, dtype=torch.bool))
    source = torch.zeros(samples, *vae.latent_shape)
    x_t = torch.zeros(samples * stage.draws, *vae.latent_shape)
    times = torch.zeros(len(x_t))
    step = _flops(transformer, x_t, times, text=text, source=source)
    kept = _activations(transformer, lambda: transformer(x_t, times, text=text, source=source))
    encode = pictures * _encode_flops(config, vae)
    try:
        text_encoder, once = _text_encoder_cost(models.text_encoder)
    except (ValueError, OSError) as error:
        text_encoder, once = 0, 0.0
        notes.append(f"the text encoder is not counted: {str(error).splitlines()[0]}")
    total = _count(transformer) + _count(vae) + text_encoder
    flops = TRAINS * step + encode + samples * once
    return Cost(_count(transformer), total, flops, kept, stage.samples, pictures, text_encoder, tuple(notes))


def _holds_edits(source: SourceSettings) -> bool | None:
    """Whether a source has edits rather than captions: by its columns, else by its files; None where neither tells."""
    if source.columns.keys() & {"source", "target", "instruction"}:
        return True
    if source.columns.keys() & {"image", "caption"}:
        return False
    if source.kind == "webdataset":
        return None  # to open shards is to write their tables of contents
    try:
        return open_source(source).columns.kind == "edits"
    except ValueError:
        return None


def _text_encoder_cost(settings: dict) -> tuple[int, float]:
    """Parameters of the language model, and FLOPs of one text that fills its slots; ValueError or OSError where its
    files are not there."""
    encoder = AutoModel.from_config(AutoConfig.from_pretrained(find_weights(settings["model"]), local_files_only=True))
    tokens = torch.zeros(1, settings.get("max_tokens", 64), dtype=torch.int64)
    return _count(encoder), _flops(lambda: encoder(input_ids=tokens))


def _class_cost(config: TrainingConfig, stage: ClassConditionalStage) -> Cost:
    models = config.models
    transformer = LightningDiT2DModel(**models.class_transformer)
    vae = AutoencoderRPiAE(models.encoder, models.decoder, models.bridge, models.image_size)
    inputs = (torch.zeros(1, *vae.latent_shape), torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    encode = 0 if stage.latents is not None else _encode_flops(config, vae)
    flops = TRAINS * _flops(transformer, *inputs) + encode
    kept = _activations(transformer, lambda: transformer(*inputs))
    return Cost(_count(transformer), _count(transformer) + _count(vae), flops, kept, stage.samples)


def _encode_flops(config: TrainingConfig, vae: AutoencoderRPiAE) -> float:
    """Of one picture, to its latent."""
    picture = torch.zeros(1, 3, config.models.image_size, config.models.image_size)
    return _flops(lambda x: vae.bridge.encode(vae.encoder(x)), picture)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@torch.no_grad()
def _flops(module: Callable, *inputs: Tensor, **named) -> float:
    """Floating point operations of one forward pass (2 per multiply-add)."""
    with FlopCounterMode(display=False) as counter:
        module(*inputs, **named)
    return float(counter.get_total_flops())


def _activations(module: nn.Module, forward: Callable) -> float:
    """Bytes that autograd keeps from a forward pass to the backward pass, besides the module's own tensors.

    On the meta device attention keeps its matrix of weights, which the fused kernels of a GPU do not: an upper bound.
    """
    own = {tensor.untyped_storage()._cdata for tensor in (*module.parameters(), *module.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return float(sum(storage.nbytes() for storage in kept.values()))
