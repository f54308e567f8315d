"""What a further leg (`init=`) asks of its config: the models that the checkpoint has, and a seed whose samples they
have not seen."""

from collections.abc import Mapping
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from rpiae.autoencoder import AutoencoderRPiAE
from rpiae.bridge import VariationalBridge
from rpiae.decoder import PixelDecoder
from rpiae.encoder import KINDS
from rpiae.loading import CONFIG, plain, read_json
from rpiae.text import TextEncoder
from rpiae.transformer import RPiAETransformer2DModel

from .config import ModelSettings
from .publish import read_legs

# Settings of the cell head, which a transformer may still grow.
HEAD = "head_"


def check_seed(init: Path, stage: str, seed: int) -> None:
    """ValueError when a leg of the checkpoint's stage had this seed: its scenes, noise and times, which depend on seed
    and sample number alone, would all come again."""
    # Legs of an earlier time name no seed: there was only 0.
    used = sorted({leg.get("seed", 0) for leg in read_legs(init).get(stage, [])})
    if seed in used:
        raise ValueError(
            f"seed={seed} would show the {stage} stage of {init} samples that it has seen: its legs had the seeds "
            f"{', '.join(map(str, used))}; choose another one, such as seed={used[-1] + 1}"
        )


def load_tokenizer(init: Path, models: ModelSettings) -> AutoencoderRPiAE:
    """The checkpoint's tokenizer; ValueError where the config asks for another one."""
    vae = AutoencoderRPiAE.from_pretrained(init / "vae")
    own = plain(vae.config)
    kinds = {"encoder": KINDS[own["encoder_config"]["kind"]], "bridge": VariationalBridge, "decoder": PixelDecoder}
    other = _differences({"image_size": models.image_size}, own, "models")
    for part, kind in kinds.items():
        if (settings := own[f"{part}_config"]) is not None:
            other += _differences(getattr(models, part), _defaults(kind) | settings, f"models.{part}")
    _refuse(init, other)
    return vae


def load_transformer(init: Path, models: ModelSettings) -> RPiAETransformer2DModel:
    """The checkpoint's transformer with all of the config's cell head, of which it may have nothing or a part; it draws
    the same until what is new is trained. ValueError where the config asks for another one, or for other texts."""
    transformer = RPiAETransformer2DModel.from_pretrained(init / "transformer")
    own = {name: value for name, value in plain(transformer.config).items() if not name.startswith("_")}
    given, where = models.transformer, "models.transformer"
    other = _differences({name: value for name, value in given.items() if not name.startswith(HEAD)}, own, where)
    _refuse(init, other + _other_text_encoder(init, models))
    grown = RPiAETransformer2DModel(**own | given)
    known, wanted = transformer.state_dict(), grown.state_dict()
    if any(name not in wanted or wanted[name].shape != one.shape for name, one in known.items()):
        _refuse(init, _differences(given, own, where))  # the heads do not fit into each other
    grown.load_state_dict(wanted | known)
    return grown


def _other_text_encoder(init: Path, models: ModelSettings) -> list[str]:
    """States of other layers may be as wide, and mean nothing to this transformer."""
    if not (init / "text_encoder").is_dir():
        return []
    wanted = plain(_defaults(TextEncoder) | models.text_encoder)
    own = read_json(init / "text_encoder" / CONFIG, "a text encoder")
    return _differences({name: wanted[name] for name in ("model", "layers")}, own, "models.text_encoder")


def _differences(given: Mapping[str, Any], own: Mapping[str, Any], where: str) -> list[str]:
    """The settings that are given and not a model's own, in words; what is not given may be anything."""
    return [
        f"{where}.{name} is {value}, there {own[name]}"
        for name, value in given.items()
        if own.get(name, value) != value
    ]


def _refuse(init: Path, other: list[str]) -> None:
    if other:
        raise ValueError(
            f"{init} has other models than this config ({'; '.join(other)}): set them as they are there, or leave "
            "init= out"
        )


def _defaults(kind: type) -> dict[str, Any]:
    """What a class takes when nothing is said."""
    arguments = signature(kind).parameters.items()
    return {name: one.default for name, one in arguments if one.default is not Parameter.empty}
