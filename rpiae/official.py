"""Reads the authors' released .pt files into this library's models.

    AutoencoderRPiAE.from_official("rpiae_stage3_1_c64_ema.pt")
    LightningDiT2DModel.from_official("ep-0000800.pt")

Layouts: a bare state dict, {"ema": ...}, and training checkpoints, of which `ema` is taken. Files are memory-mapped and
read with `weights_only`; a model is filled only when every tensor fits.
"""

import pickle
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from .autoencoder import AutoencoderRPiAE
from .lightning_dit import LightningDiT2DModel
from .loading import HUB_PREFIX, cast, hub_errors, misfit, shapes
from .official_layout import (
    TOKENIZER_NAMES,
    TRANSFORMER_NAMES,
    Renames,
    Sizes,
    official_names,
    released_name,
    tokenizer_settings,
    transformer_settings,
)

RELEASED_REPOSITORY = "qihoo360/RPiAE"
RELEASED_TOKENIZER = "rpiae_stage3_1_c64_ema.pt"
RELEASED_TRANSFORMER = "LightningDiT/ep-0000800.pt"

TOKENIZER, STAGE_1, TRANSFORMER = "tokenizer", "stage-1 tokenizer", "LightningDiT"
KINDS = {
    TOKENIZER: "a whole tokenizer (encoder, bridge, pixel decoder)",
    STAGE_1: "a stage-1 tokenizer (encoder and pixel decoder, no bridge)",
    TRANSFORMER: "a LightningDiT",
    "pixel decoder": "a pixel decoder alone",
    "": "no model of the authors'",
}

# What torch.save wrote first before it made zip archives.
OLD_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"
HOLDS_CODE = "holds code, not weights alone, so it was not opened"
DAMAGED = "is damaged, or no PyTorch file"

# The frozen copy of the encoder in stage-1 files.
REPLICA = "teacher_encoder."

# Bytes that are copied from one mapping of a file: pages that were read count as memory until it is closed.
SLICE = 512 * 2**20


@dataclass(frozen=True)
class OfficialFile:
    """One of the authors' files: its averaged weights by released names, memory-mapped, and what it is."""

    path: Path
    kind: str
    layout: str
    weights: dict[str, Tensor]
    epoch: int | None = None
    step: int | None = None


def locate(source: str | Path, released: str) -> Path:
    """The file that a source means: itself, or in a folder or a hub repository the released one."""
    if str(source).startswith(HUB_PREFIX):
        from huggingface_hub import hf_hub_download

        organisation, _, rest = str(source)[len(HUB_PREFIX) :].partition("/")
        name, _, file = rest.partition("/")
        repository = f"{organisation}/{name}"
        with hub_errors(repository):
            return Path(hf_hub_download(repository, file or released))
    path = Path(source)
    if path.is_dir():
        candidates = [path / released, path / Path(released).name]
        path = next((one for one in candidates if one.is_file()), None)
        if path is None:
            raise ValueError(f"the folder {str(source)!r} holds no {Path(released).name}; name the file itself")
    if not path.is_file():
        raise ValueError(f"there is no file {str(source)!r}; for a file on the hub write hf:org/name")
    return path


def is_official(source: str | Path) -> bool:
    """Whether a source means a file of the authors' (not yet whether it is a good one) and no folder of ours."""
    if str(source).startswith(HUB_PREFIX):
        name = str(source)[len(HUB_PREFIX) :]
        return name.endswith(".pt") or name == RELEASED_REPOSITORY
    path = Path(source)
    return path.is_file() or (path / RELEASED_TOKENIZER).is_file()


def read(path: str | Path) -> OfficialFile:
    """What a file is and its weights, which stay in the file until they are used.

    Raises:
        ValueError: the file is no PyTorch file, is cut off, holds code, or no averaged weights.
    """
    path = Path(path)
    content = unpickle(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path.name} holds a {type(content).__name__}, wanted are the weights of a model")
    layout, weights = "bare state dict", content
    if "ema" in content:
        layout, weights = ("training checkpoint" if "model" in content else "averaged weights"), content["ema"]
    elif "model" in content:
        raise ValueError(f"{path.name} holds a model in training ('model') but not its averaged weights ('ema')")
    if not isinstance(weights, Mapping):
        raise ValueError(f"{path.name} holds a {type(weights).__name__} under 'ema', wanted are weights")
    tensors = {released_name(str(name)): one for name, one in weights.items() if isinstance(one, Tensor)}
    if len(tensors) != len(weights):
        others = [str(name) for name, one in weights.items() if not isinstance(one, Tensor)]
        what = f"not weights: {', '.join(others[:5])}" if others else "names that differ by a prefix only"
        raise ValueError(f"{path.name} is {KINDS['']}, it holds {what}")
    epoch, step = (content.get(name) if isinstance(content.get(name), int) else None for name in ("epoch", "step"))
    return OfficialFile(path, _kind(tensors), layout, tensors, epoch, step)


def unpickle(path: Path):
    """What torch.load gives, with every failure as a sentence."""
    with path.open("rb") as stream:
        head = stream.read(16)
    if head[8:9] == b"{":
        raise ValueError(f"{path.name} is a safetensors file, wanted is a .pt file; from_pretrained reads its folder")
    zipped, pickled = head.startswith(b"PK"), head.startswith(b"\x80")
    if zipped and not zipfile.is_zipfile(path):
        raise ValueError(f"{path.name} is cut off; fetch it again")
    if pickled and not head.startswith(OLD_MAGIC) and _names_code(path):
        raise ValueError(f"{path.name} {HOLDS_CODE}")
    if not zipped and not head.startswith(OLD_MAGIC):
        raise ValueError(f"{path.name} is no PyTorch file" + ("" if head else ", it is empty"))
    try:
        # Files of PyTorch before 1.6 are no zip archives and cannot be mapped.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        code = "GLOBAL" in str(error) or "allowlisted" in str(error)
        raise ValueError(f"{path.name} {HOLDS_CODE if code else DAMAGED}") from error
    except (RuntimeError, EOFError, LookupError, ValueError, AttributeError, TypeError, OSError) as error:
        raise ValueError(f"{path.name} {DAMAGED}") from error


def _names_code(path: Path) -> bool:
    """Whether a plain pickle names functions or classes, found without running it."""
    try:
        with path.open("rb") as stream:
            operations = {operation.name for operation, _, _ in pickletools.genops(stream)}
    except ValueError:
        return False
    return not operations.isdisjoint(("GLOBAL", "STACK_GLOBAL", "INST"))


def _kind(names: Mapping[str, Tensor]) -> str:
    def any_starts(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in names)

    if any_starts("vb_feature_"):
        return TOKENIZER
    if any_starts("encoder.encoder.", REPLICA):
        return STAGE_1
    if any_starts("x_embedder.", "t_embedder.", "y_embedder.", "final_layer."):
        return TRANSFORMER
    return "pixel decoder" if any_starts("decoder_layers.", "decoder.decoder_layers.") else ""


def load_autoencoder(
    source: str | Path,
    encoder_num_heads: int,
    decoder_num_heads: int,
    bridge: bool,
    pivot_replica: bool,
    torch_dtype: torch.dtype,
) -> AutoencoderRPiAE:
    """See `AutoencoderRPiAE.from_official`."""
    if bridge and pivot_replica:
        raise ValueError("pivot_replica is for stage-1 checkpoints, which have no bridge: give bridge=False as well")
    file = read(locate(source, RELEASED_TOKENIZER))
    _require(file, TOKENIZER if bridge else STAGE_1)
    with _misfits(file):
        settings = tokenizer_settings(Sizes(shapes(file.weights)), encoder_num_heads, decoder_num_heads, bridge)
        return _build(AutoencoderRPiAE, settings, file, TOKENIZER_NAMES, torch_dtype, pivot_replica)


def load_transformer(source: str | Path, num_heads: int, torch_dtype: torch.dtype) -> LightningDiT2DModel:
    """See `LightningDiT2DModel.from_official`."""
    file = read(locate(source, RELEASED_TRANSFORMER))
    _require(file, TRANSFORMER)
    with _misfits(file):
        settings = transformer_settings(Sizes(shapes(file.weights)), num_heads)
        return _build(LightningDiT2DModel, settings, file, TRANSFORMER_NAMES, torch_dtype)


def shape_settings(file: OfficialFile) -> dict:
    """The sizes that a file's shapes tell, as its model's arguments; a tokenizer's numbers of heads, which they do not
    tell, are given as 1."""
    sizes = Sizes(shapes(file.weights))
    with _misfits(file):
        if file.kind == TRANSFORMER:
            return transformer_settings(sizes, None)
        return tokenizer_settings(sizes, 1, 1, bridge=file.kind == TOKENIZER)


def _require(file: OfficialFile, wanted: str) -> None:
    if file.kind == wanted:
        return
    hint = "; with bridge=False it loads without one" if (file.kind, wanted) == (STAGE_1, TOKENIZER) else ""
    if not file.kind:
        hint = f"; its first tensors are {', '.join(list(file.weights)[:3]) or 'none'}"
    raise ValueError(f"{file.path.name} is {KINDS[file.kind]}, wanted is {KINDS[wanted]}{hint}")


@contextmanager
def _misfits(file: OfficialFile) -> Iterator[None]:
    """Every mistake found in a file's shapes is told with the file's name."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{file.path.name} cannot be loaded as {KINDS[file.kind]}: {error}") from error


def _build(
    cls: type, settings: dict, file: OfficialFile, renames: Renames, dtype: torch.dtype, pivot_replica: bool = False
) -> nn.Module:
    """A model of these settings with the file's weights; ValueError, and nothing read, when they do not fit."""
    with init_empty_weights(include_buffers=False):
        model = cls(**settings)
    ours = shapes(model.state_dict())
    names = {name: official_names(name, renames) for name in ours}
    wanted = {
        theirs: (shape[0] // len(names[name]), *shape[1:]) for name, shape in ours.items() for theirs in names[name]
    }
    if pivot_replica or any(name.startswith(REPLICA) for name in file.weights):
        wanted |= {_of_replica(name): shape for name, shape in wanted.items() if name.startswith("encoder.")}
    if file.kind != STAGE_1:  # only stage 1 has one: anywhere else it is unexpected
        wanted = {name: shape for name, shape in wanted.items() if not name.startswith(REPLICA)}
    faults = misfit(wanted, shapes(file.weights))
    strange = [name for name, tensor in file.weights.items() if not tensor.is_floating_point()]
    if faults or strange:
        raise ValueError(faults or f"not floating point: {', '.join(strange[:5])}")
    if pivot_replica:
        names = {name: tuple(map(_of_replica, theirs)) for name, theirs in names.items()}
    _fill(model, file, names, dtype)
    return cast(model, dtype).eval()


def _of_replica(name: str) -> str:
    return f"teacher_{name}" if name.startswith("encoder.") else name


def _fill(model: nn.Module, file: OfficialFile, names: dict[str, tuple[str, ...]], dtype: torch.dtype) -> None:
    """Copy the weights in slices, so that memory holds the model and one slice of the file, not all of both."""
    sizes = {name: sum(file.weights[one].nbytes for one in theirs) for name, theirs in names.items()}
    waiting, in_float32 = list(names), getattr(model, "_keep_in_fp32_modules", None) or ()
    while waiting:
        weights, part, size = read(file.path).weights, {}, 0
        while waiting and (not part or size + sizes[waiting[0]] <= SLICE):
            name = waiting.pop(0)
            size += sizes[name]
            kept = torch.float32 if name in in_float32 else dtype
            part[name] = torch.cat([weights[one] for one in names[name]]).to(kept)
        model.load_state_dict(part, strict=False, assign=True)
        del weights, part
