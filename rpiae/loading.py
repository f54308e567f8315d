"""Strict loading of checkpoints: whole and right, or a sentence that says what is wrong.

diffusers alone is not strict: a key missing from a safetensors file leaves that parameter unset without an error, a
missing safetensors file falls back to pickle, and a mistyped folder asks the hub.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.configuration_utils import FrozenDict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

WEIGHTS = "diffusion_pytorch_model.safetensors"
CONFIG = "config.json"
HUB_PREFIX = "hf:"
HUB_FILES = ("*.json", "*.safetensors", "*.md", "*.txt")  # of a repository, what a checkpoint consists of
NAMED = 5


def resolve(source: str | Path) -> Path:
    """A local folder, or one fetched from the hub for "hf:org/name"; ValueError for anything else."""
    if str(source).startswith(HUB_PREFIX):
        from huggingface_hub import snapshot_download

        name = str(source)[len(HUB_PREFIX) :]
        with hub_errors(name):
            return Path(snapshot_download(name, allow_patterns=list(HUB_FILES)))
    folder = Path(source)
    if not folder.is_dir():
        raise ValueError(f"there is no checkpoint folder {str(source)!r}; for a hub model write hf:org/name")
    return folder


def source_name(source: str | Path) -> str:
    """A source in words for people: where it is on the hub, or a file's or folder's name."""
    # Not resolve(): what the hub left on this disk are links to files that are named by their checksums.
    return str(source) if str(source).startswith(HUB_PREFIX) else Path(os.path.abspath(source)).name


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Whatever keeps a thing from being fetched, as ValueError."""
    try:
        yield
    except Exception as error:  # of a connection that breaks off each layer below has its own kinds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"could not fetch {name!r} from the hub: {reason}") from error


def read_json(path: Path, what: str) -> dict:
    """The JSON object in a file; ValueError that names `what` when it is missing or broken."""
    if not path.is_file():
        raise ValueError(f"{path.parent} is not {what}: {path.name} is missing")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged, it does not hold JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} should hold a JSON object, it holds a {type(content).__name__}")
    return content


def load_strictly(model: nn.Module, path: Path) -> None:
    """Fill a model, also one without weights, from a safetensors file, in the model's dtypes; ValueError with the names
    of every tensor that is missing, unexpected or misshapen. Nothing is loaded then."""
    if not path.is_file():
        raise ValueError(f"{path.parent} has no weights: {path.name} is missing")
    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or cut off ({error}); fetch or make it again") from None
    wanted = model.state_dict()
    if faults := misfit(shapes(wanted), shapes(found)):
        raise ValueError(f"{path} does not fit a {type(model).__name__}: {faults}")
    # Copied, because what safetensors gives is the file itself: whoever replaced it would change a loaded model.
    copies = {name: found[name].to(tensor.dtype, copy=True) for name, tensor in wanted.items()}
    model.load_state_dict(copies, strict=True, assign=True)


def shapes(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def misfit(wanted: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> str:
    """Which tensors are missing, unexpected or of another shape, as one phrase; empty when they fit."""
    faults = {
        "missing": [name for name in wanted if name not in found],
        "unexpected": [name for name in found if name not in wanted],
        "of another shape": [
            f"{name} {found[name]} instead of {wanted[name]}"
            for name in wanted
            if name in found and found[name] != wanted[name]
        ],
    }
    return "; ".join(f"{len(names)} {kind}: {_few(names)}" for kind, names in faults.items() if names)


def _few(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def open_pipeline(
    pipeline_class: type[DiffusionPipeline], source: str | Path, what: str, unknown: Iterable[str]
) -> tuple[Path, dict, FlowMatchEulerDiscreteScheduler]:
    """A pipeline's folder, its index and its scheduler.

    Args:
        source: the folder, or "hf:org/name".
        what: the folder should be, for messages.
        unknown: names of arguments that were given and that there are not.

    Raises:
        ValueError: what is missing, damaged or foreign, and where.
    """
    if unknown := ", ".join(unknown):
        raise ValueError(f"from_pretrained does not take {unknown}")
    folder = resolve(source)
    index = read_json(folder / "model_index.json", what)
    if (found := index.get("_class_name")) != pipeline_class.__name__:
        raise ValueError(f"{folder} holds a {found}, wanted is a {pipeline_class.__name__}")
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json", "a checkpoint's scheduler")
    if (found := scheduler.get("_class_name")) != FlowMatchEulerDiscreteScheduler.__name__:
        raise ValueError(f"{folder / 'scheduler'} is a {found}, wanted is a FlowMatchEulerDiscreteScheduler")
    try:
        return folder, index, FlowMatchEulerDiscreteScheduler.from_config(scheduler)
    except Exception as error:
        raise ValueError(f"{folder / 'scheduler'} does not describe a scheduler: {error}") from error


class StrictLoading:
    """Gives a diffusers model a `from_pretrained` that is strict and reads safetensors only."""

    @classmethod
    def from_pretrained(cls, source: str | Path, subfolder: str | None = None, torch_dtype=torch.float32):
        """Load from a local folder or "hf:org/name".

        Args:
            source: the folder with config.json and the safetensors file, or its parent with `subfolder`.
            torch_dtype: of the loaded weights, float32 unless said otherwise.

        Raises:
            ValueError: the folder is missing, foreign, damaged or does not fit; it says which.
        """
        folder = resolve(source)
        folder = folder / subfolder if subfolder else folder
        with init_empty_weights(include_buffers=False):  # random ones would take time, and be thrown away
            model = build(cls, folder)
        load_strictly(model, folder / WEIGHTS)
        return cast(model, torch_dtype).eval()


def build(model_class: type[nn.Module], folder: Path) -> nn.Module:
    """A model as a folder's config.json describes it, without weights; ValueError when it describes no such model."""
    name = model_class.__name__
    config = read_json(folder / CONFIG, f"a {name}")
    if config.get("_class_name") != name:
        raise ValueError(f"{folder} holds a {config.get('_class_name')}, wanted is a {name}")
    settings = {key: value for key, value in config.items() if not key.startswith("_")}
    try:
        return model_class(**settings)
    except Exception as error:  # a depth of 0, text where a number belongs: layers raise whatever they trip over
        raise ValueError(f"{folder / CONFIG} does not describe a {name}: {error}") from error


def cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model with its floating point weights in `dtype`, in place, but for those that it keeps in float32
    (`_keep_in_fp32_modules`, which diffusers' own `.to(dtype)` warns of and casts)."""
    names = getattr(model, "_keep_in_fp32_modules", None) or ()
    kept = {name: model.get_parameter(name).data.float() for name in names}
    nn.Module.to(model, dtype)
    for name, value in kept.items():
        model.get_parameter(name).data = value
    return model


def plain(value):
    """A config value without diffusers' wrappers, for JSON and comparison."""
    if isinstance(value, (dict, FrozenDict)):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value
