"""The study's rows: what each idea trains in which order, and which losses count. Everything else is one for all.

Every row has the same encoder, bridge and decoder sizes, the same pictures, and as many of them in all its phases
together. Phases say how they differ from the config's `tokenizer` stage, whose losses are those of the pixels.
"""

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

EVERYTHING = ("encoder", "bridge", "decoder")
KL = 1e-3  # as in the bridge stage of train/configs/stickers-256.yaml
# Of phases under losses of pixels: as strong against their mean squared error of weight 5 as in RPiAE's bridge, where
# that weighs 100.
JOINT = 0.05
BLIND = {"l1": 0.0, "mse": 0.0, "perceptual": 0.0}  # no loss of pixels
# What tells readers of a row, and decides none of its numbers.
LABELS = {"title": "", "idea": "", "ablation": False}
STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=STRICT)
class Phase:
    """One training run of a tokenizer.

    Args:
        share: of the row's pictures.
        trains: which parts; a phase that trains the bridge adds it, unless it is there.
        changes: settings of the `tokenizer` stage.
    """

    name: str
    share: float
    trains: tuple[str, ...]
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class Row:
    """One tokenizer.

    Args:
        start: the encoder begins as the frozen "representation", or as a linear code of "pixels".
        latent: "mode" or "sample" of the bridge's posterior in training, nearest "codes", or the "features" themselves.
        anchor: what is held to the frozen representation where `pivot` counts: the "features", or the "latent" through
            a learned projection (VA-VAE's alignment).
        bridge_pixels: how much pixels count against features in the bridge's linear start.
    """

    title: str
    idea: str
    phases: tuple[Phase, ...]
    start: Literal["representation", "pixels"] = "representation"
    latent: Literal["mode", "sample", "codes", "features"] = "mode"
    anchor: Literal["features", "latent"] = "features"
    bridge_pixels: float = 1.5
    ablation: bool = False

    def written(self) -> dict[str, Any]:
        """All of it that decides numbers, as a file has it."""
        return TypeAdapter(Row).dump_python(self, mode="json", exclude=set(LABELS))


def row_as_written(recorded: dict[str, Any]) -> dict[str, Any]:
    """A row that was written down, with what is newer than it at its default; as it is when it is no row any more."""
    try:
        return TypeAdapter(Row).validate_python(LABELS | recorded).written()
    except ValidationError:
        return recorded


# RPiAE's second stage, with the weights of train/configs/stickers-256.yaml; the decoder's noise has no place in it.
BRIDGE = Phase(
    "bridge", 0.2, ("bridge",),
    {"mse": 100.0, "perceptual": 0.0, "feature_mse": 1.0, "kl": KL, "latent_noise_tau": 0.0},
)  # fmt: skip
PIVOT = Phase("pivot", 0.4, ("encoder", "decoder"), {"pivot": 0.75})
DECODER = Phase("decoder", 0.4, ("decoder",))

ROWS: dict[str, Row] = {
    "rpiae": Row(
        "RPiAE",
        "encoder fine-tuned under a pivot loss, then a variational bridge, then the decoder",
        (PIVOT, BRIDGE, DECODER),
    ),
    "rae": Row(
        "RAE",
        "frozen representation, decoder only; the wide feature map is the latent",
        (Phase("decoder", 1.0, ("decoder",)),),
        latent="features",
    ),
    "va-vae": Row(
        "VA-VAE",
        "KL autoencoder whose latent is aligned to the frozen representation",
        (Phase("joint", 1.0, EVERYTHING, {"kl": JOINT * KL, "pivot": 0.1}),),
        start="pixels",
        latent="sample",
        anchor="latent",
    ),
    "sd-vae": Row(
        "SD-VAE",
        "KL autoencoder, no representation",
        (Phase("joint", 1.0, EVERYTHING, {"kl": JOINT * KL}),),
        start="pixels",
        latent="sample",
    ),
    "fae": Row(
        "FAE",
        "frozen representation narrowed without a look at pixels; decoder first on features, then on what comes back",
        (
            Phase("features", 0.4, ("decoder",)),
            Phase("bridge", 0.2, ("bridge",), BLIND | {"feature_mse": 1.0, "kl": KL, "latent_noise_tau": 0.0}),
            DECODER,
        ),
        latent="sample",
        bridge_pixels=0.0,
    ),
    "vqgan": Row(
        "VQGAN",
        "codebook autoencoder, no representation",
        (Phase("joint", 1.0, EVERYTHING),),
        start="pixels",
        latent="codes",
    ),
    "rpiae-no-pivot": Row(
        "RPiAE without the pivot loss",
        "stage 1 leaves the encoder to the pixels",
        (Phase("pivot", 0.4, ("encoder", "decoder")), BRIDGE, DECODER),
        ablation=True,
    ),
    "rpiae-no-bridge": Row(
        "RPiAE without the bridge",
        "the fine-tuned encoder's wide feature map is the latent",
        (Phase("pivot", 0.6, ("encoder", "decoder"), {"pivot": 0.75}), DECODER),
        latent="features",
        ablation=True,
    ),
    "rpiae-single-stage": Row(
        "RPiAE in a single stage",
        "encoder, bridge and decoder under all losses at once",
        (Phase("joint", 1.0, EVERYTHING, {"pivot": 0.75, "feature_mse": JOINT, "kl": JOINT * KL}),),
        ablation=True,
    ),
}


def chosen(names: str | None) -> list[str]:
    """Row names with commas → those rows, all without; ValueError for a name that there is not, or none."""
    wanted = [name.strip() for name in names.split(",") if name.strip()] if names else list(ROWS)
    if not wanted:
        raise ValueError(f"--rows {names!r} names no row; there are: {', '.join(ROWS)}")
    if unknown := [name for name in wanted if name not in ROWS]:
        raise ValueError(f"the study has no row {', '.join(unknown)}; it has: {', '.join(ROWS)}")
    return wanted
