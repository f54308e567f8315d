"""What a study will cost, row by row, before it starts: parameters, FLOPs and minutes."""

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from rpiae.text import TextStates
from rpiae.tokenizers.base import count_parameters
from rpiae.transformer import RPiAETransformer2DModel

from ..data.pairs import PICTURES, SAMPLES
from ..perceptual import PerceptualDistance
from .config import StudySettings
from .generator import transformer_config
from .rows import ROWS
from .run import RowRun
from .tokenizer import build

# Sustained training rates in FLOP/s: of the stickers-256 models on two Zen 5 cores (bf16 autocast), measured. Smaller
# matrices are slower, and a GPU's rate would say nothing: it waits for launches and drawing.
RATES = {"two CPU cores": 0.2e12}
# A training step costs about so many forward passes: of what trains, of what is in front of it, of a frozen judge whose
# gradient is asked for.
TRAINED, BEFORE, LOOKED_THROUGH = 3.0, 1.0, 2.0


@dataclass(frozen=True)
class Cost:
    tokenizer: int  # parameters
    generator: int
    flops: float


def row_cost(study: StudySettings, name: str) -> Cost:
    """Parameters and training FLOPs of one row with one seed; judging and measuring come on top."""
    row, side = ROWS[name], study.models.image_size
    x = torch.zeros(1, 3, side, side)
    perceptual = flops(PerceptualDistance(), x, x) if study.tokenizer.perceptual else 0.0
    bridged = row.latent != "features"
    with torch.device("meta"):
        vae = build(study, row, bridged)
        x = torch.zeros(1, 3, side, side)
        with torch.no_grad():
            features = vae.encode_features(x)
        encode = flops(vae.encoder, x)
        narrow = flops(lambda f: vae.bridge.decode(vae.bridge.encode(f).mode()), features) if bridged else 0.0
        decode = flops(vae.decoder, features)
        total = 0.0
        for phase in row.phases:
            stage = RowRun(study, name, 0).stage(phase)
            has_bridge = bridged and any("bridge" in one.trains for one in row.phases[: row.phases.index(phase) + 1])
            one = encode * (TRAINED if "encoder" in stage.trains else BEFORE)
            one += narrow * has_bridge * (TRAINED if "bridge" in stage.trains else BEFORE)
            if stage.l1 or stage.mse or stage.perceptual:
                one += decode * (TRAINED if "decoder" in stage.trains else LOOKED_THROUGH)
                one += perceptual * LOOKED_THROUGH * stage.perceptual_share * bool(stage.perceptual)
            one += encode * BEFORE * bool(stage.pivot)
            total += one * stage.samples
        if study.generator is None:
            return Cost(count_parameters(vae), 0, total)
        transformer = RPiAETransformer2DModel(**transformer_config(study, vae.latent_shape))
        settings = transformer.config
        slots = (SAMPLES, settings.text_slots)
        text = TextStates(torch.zeros(*slots, settings.text_width), torch.zeros(slots, dtype=torch.bool))
        x_t = torch.zeros(SAMPLES * study.generator.draws, *vae.latent_shape)
        source = torch.zeros(SAMPLES, *vae.latent_shape)
        step = flops(transformer, x_t, torch.zeros(len(x_t)), text=text, source=source)
    total += study.generator.samples * (TRAINED * step + PICTURES * (encode + narrow))
    return Cost(count_parameters(vae), count_parameters(transformer), total)


@torch.no_grad()
def flops(module, *inputs, **named) -> float:
    """Of one forward pass, 2 for each multiply-add."""
    with FlopCounterMode(display=False) as counter:
        module(*inputs, **named)
    return float(counter.get_total_flops())


def describe(study: StudySettings, names: list[str]) -> str:
    """Markdown, a line a row."""
    machines = list(RATES)
    lines = [
        "| row | tokenizer, parameters | transformer, parameters | TFLOP to train | "
        + " | ".join(f"minutes on {machine}" for machine in machines) + " |",
        "|---|" + "---:|" * (3 + len(machines)),
    ]  # fmt: skip
    total = 0.0
    for name in names:
        cost = row_cost(study, name)
        total += cost.flops
        minutes = " | ".join(f"{cost.flops / RATES[machine] / 60:.1f}" for machine in machines)
        numbers = f"{cost.tokenizer} | {cost.generator} | {cost.flops / 1e12:.0f}"
        lines.append(f"| {name} | {numbers} | {minutes} |")
    all_seeds = " | ".join(f"{len(study.seeds) * total / RATES[machine] / 60:.0f}" for machine in machines)
    lines.append(f"| all rows, {len(study.seeds)} seeds | | | {len(study.seeds) * total / 1e12:.0f} | {all_seeds} |")
    lines += ["", "The rate is a sustained one of larger models; judging and measuring come on top."]
    return "\n".join(lines)
