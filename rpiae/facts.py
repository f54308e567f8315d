"""What a file or a folder holds, as plain facts: the authors' files, folders of this library's models, recipes."""

import json
import math
from collections import Counter
from pathlib import Path

from safetensors import SafetensorError, safe_open

from . import recipe
from .loading import CONFIG, WEIGHTS, plain, read_json

INDEX = "model_index.json"
PIPELINE, AUTOENCODER, LIGHTNING_DIT = "ClassConditionalPipeline", "AutoencoderRPiAE", "LightningDiT2DModel"
OFFICIAL_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")


def describe(path: Path) -> dict | None:
    """Facts about one of the authors' files, the recipe of a PNG, or a folder of one model or a class-conditional
    pipeline; None for a folder of another kind.

    Raises:
        ValueError: the file is damaged, or nothing of these.
    """
    if path.is_dir():
        return describe_folder(path)
    with path.open("rb") as stream:
        head = stream.read(2)
    if path.suffix in OFFICIAL_SUFFIXES or head in (b"PK", b"\x80\x02"):
        return describe_official(path)
    found = recipe.read(path)
    if found is None:
        raise ValueError(f"'{path.name}' holds no recipe.")
    return json.loads(found.to_json())


def describe_official(path: str | Path) -> dict:
    """What an official file is, as plain facts."""
    from .official import KINDS, read

    file = read(path)
    counts = Counter()
    for name, tensor in file.weights.items():
        if not name.startswith("feat_rope."):  # a table, no parameter
            counts[name.split(".")[0]] += tensor.numel()
    facts = {"file": file.path.name, "what": KINDS[file.kind], "layout": file.layout}
    facts |= {name: value for name in ("epoch", "step") if (value := getattr(file, name)) is not None}
    return facts | {"parameters": {"all": sum(counts.values()), **counts}} | _sizes(file)


def _sizes(file) -> dict:
    from .official import STAGE_1, TOKENIZER, TRANSFORMER, shape_settings

    if file.kind == TRANSFORMER:
        settings = shape_settings(file)
        side = settings["sample_size"]
        return {
            "latent_shape": [settings["in_channels"], side, side],
            "classes": settings["num_classes"],
            "layers": settings["num_layers"],
            "width": settings["hidden_size"],
            "heads": settings["num_heads"],
        }
    if file.kind not in (TOKENIZER, STAGE_1):
        return {}
    settings = shape_settings(file)
    encoder, bridge = settings["encoder_config"], settings["bridge_config"]
    side = encoder["output_grid"]
    channels = bridge["latent_channels"] if bridge else encoder["hidden_size"]
    return {"latent_shape": [channels, side, side], "image_size": settings["image_size"]}


def describe_folder(folder: Path) -> dict | None:
    """What a folder of one model, or of a class-conditional pipeline, holds; None for any other."""
    if (folder / INDEX).is_file():
        index = read_json(folder / INDEX, "a pipeline")
        if index.get("_class_name") != PIPELINE:
            return None
        parts = {name: describe_folder(folder / name) for name in ("vae", "transformer") if (folder / name).is_dir()}
        return {"what": index["_class_name"], **parts}
    if not (folder / CONFIG).is_file():
        return None
    config = read_json(folder / CONFIG, "a model")
    if config.get("_class_name") not in (AUTOENCODER, LIGHTNING_DIT):
        return None
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"{folder} has no weights: {WEIGHTS} is missing")
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as weights:
            names = weights.keys()
            sizes = [math.prod(weights.get_slice(name).get_shape()) for name in names if not name.startswith("rope_")]
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{folder / WEIGHTS} is damaged or cut off ({error})") from error
    settings = {name: plain(value) for name, value in config.items() if not name.startswith("_")}
    return {"what": config["_class_name"], "parameters": sum(sizes), "settings": settings}
