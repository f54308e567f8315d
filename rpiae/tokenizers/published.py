"""Files that other authors published: where they are looked for, and how a model is filled from one.

A file is read whole or not at all: every tensor that is missing, unexpected or misshapen is named, in the file's own
words, and nothing is loaded then.
"""

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .. import official
from ..loading import CONFIG, HUB_PREFIX, misfit, read_json, shapes, source_name
from .base import RANDOM, TokenizerInfo, count_parameters, with_random_weights

ASSETS = Path(__file__).resolve().parents[2] / "assets" / "tokenizers"
# Training checkpoints keep the model under one of these, beside optimisers and settings.
WRAPPERS = ("state_dict", "model")


@dataclass(frozen=True)
class Published:
    """One tokenizer's weights as its authors published them."""

    name: str  # the tokenizer's, and that of its folder in assets/tokenizers
    hub_id: str  # "" where nothing was published
    file: str
    licence: str
    latent_shape: tuple[int, int, int]
    downsampling: int
    codes: int | None = None
    image_size: int = 256

    @property
    def folder(self) -> Path:
        return ASSETS / self.name

    def find(self) -> Path | None:
        """The file in assets/tokenizers, else what the hub left on this disk earlier."""
        if (self.folder / self.file).is_file():
            return self.folder / self.file
        if not self.hub_id:
            return None
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(self.hub_id, self.file)
        return Path(cached) if isinstance(cached, str) else None

    def locate(self, source: str | os.PathLike | None) -> tuple[Path, str]:
        """The file that a source means and, for people, where it is from. ValueError when there is none."""
        if source is not None:
            return official.locate(source, self.file), source_name(source)
        path = self.find()
        if path is None:
            fetch = f'write "{HUB_PREFIX}{self.hub_id}" to fetch them, ' if self.hub_id else ""
            raise ValueError(
                f"The weights of {self.name} are not on this machine. Name a folder or file that has them, {fetch}"
                f'or "{RANDOM}" for random ones.'
            )
        return path, self.name if path.parent == self.folder else self.hub_id

    def info(self, model: nn.Module, origin: str) -> TokenizerInfo:
        """Facts of a loaded model; `origin`: where its weights are from, in words for people."""
        return TokenizerInfo(
            name=self.name,
            latent_shape=self.latent_shape,
            downsampling=self.downsampling,
            parameters=count_parameters(model),
            source=origin,
            licence=self.licence,
            image_size=self.image_size,
            codes=self.codes,
        )

    def load(
        self,
        source: str | os.PathLike | None,
        build: Callable[[], nn.Module],
        rename: Callable[[str], str] = str,
        unneeded: tuple[str, ...] = (),
        todays_name: Callable[[str], str] = str,
        config: Mapping | None = None,
    ) -> tuple[nn.Module, TokenizerInfo]:
        """A model with the weights of a source, or random ones, and what it is. ValueError as `locate` and `fill`.

        Args:
            rename: the file's name of a tensor of the model's.
            unneeded: how tensors begin that served training alone and are left in the file.
            todays_name: of a tensor in a file of an earlier time.
            config: what a config.json beside the weights must say.
        """
        if source == RANDOM:
            model, origin = with_random_weights(build), "random weights"
        else:
            path, origin = self.locate(source)
            model = empty(build)
            if config is not None:
                check_config(path, type(model), config, self.name)
            found = {todays_name(name): one for name, one in read_weights(path).items()}
            weights = {name: one for name, one in found.items() if not name.startswith(unneeded)}
            model = fill(model, weights, path, self.name, rename)
        return model, self.info(model, origin)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .pt or .bin file under the file's own names; ValueError when it is damaged.

    What is no tensor is left out: counters and settings lie beside the weights in training checkpoints.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path.name} is damaged or cut off ({error}). Fetch it again.") from None
    # LlamaGen's trainer saves its command line's options, a plain bag of values.
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = official.unpickle(path)
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise ValueError(f"{path.name} holds a {type(content).__name__}, wanted are the weights of a model")
    return {str(name): one for name, one in content.items() if isinstance(one, Tensor)}


def check_config(path: Path, model_class: type, wanted: Mapping, name: str) -> None:
    """ValueError when a config.json beside the weights describes another model than the published one."""
    if not (path.parent / CONFIG).is_file():
        return
    config = read_json(path.parent / CONFIG, f"the {name} tokenizer")
    # None is a class's own default, which the published sizes are.
    differing = [key for key, value in wanted.items() if config.get(key) not in (None, value)]
    found = config.get("_class_name")
    if found != model_class.__name__ or differing:
        what = f"another {', '.join(differing)}" if differing else f"another class, {found}"
        raise ValueError(f"{path.parent.name} is not the {name} tokenizer: its {CONFIG} says {what}")


def empty(build: Callable[[], nn.Module]) -> nn.Module:
    """A model without weights: `fill` gives it some. Tables that it computes itself are there."""
    with init_empty_weights(include_buffers=False):
        return build()


def fill(
    model: nn.Module, weights: Mapping[str, Tensor], path: Path, name: str, rename: Callable[[str], str] = str
) -> nn.Module:
    """Give an empty model a file's weights as float32; ValueError with the names of all that do not fit.

    Args:
        weights: the file's tensors, without those that the model does not need.
        name: of the tokenizer, for messages.
        rename: the file's name of a tensor of the model's. Matrices may be stored as 1x1 convolutions.
    """
    wanted = {rename(one): shape for one, shape in shapes(model.state_dict()).items()}
    found = {one: _matrix(tensor) if len(wanted.get(one, ())) == 2 else tensor for one, tensor in weights.items()}
    faults = misfit(wanted, shapes(found))
    if not faults and (strange := [one for one, tensor in found.items() if not tensor.is_floating_point()]):
        faults = f"not floating point: {', '.join(strange[:5])}"
    if faults:
        raise ValueError(f"{path.name} does not fit the {name} tokenizer: {faults}")
    copies = {one: found[rename(one)].to(torch.float32, copy=True) for one in model.state_dict()}
    model.load_state_dict(copies, strict=True, assign=True)
    return model


def _matrix(tensor: Tensor) -> Tensor:
    """A 1x1 convolution's weight as a matrix; anything else as it is."""
    return tensor[..., 0, 0] if tensor.ndim == 4 and tensor.shape[2:] == (1, 1) else tensor
