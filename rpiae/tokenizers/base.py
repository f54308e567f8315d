"""What every tokenizer here is to the outside: pictures in [0, 1] → latents → pictures, and facts about
itself."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

RANDOM = "random"
# Pictures may leave [0, 1] by so much, from half precision or resizing, before they are taken for another
# range.
RANGE_TOLERANCE = 0.01


@dataclass(frozen=True)
class TokenizerInfo:
    """Facts for a table."""

    name: str
    latent_shape: tuple[int, ...]  # of one picture of `image_size`, without the batch: (C, h, w)
    downsampling: int  # pixels a side for each latent cell
    parameters: int  # in encoder and decoder together
    source: str  # where the weights are from: a folder's name, a hub id or "random weights"
    licence: str
    image_size: int = 256
    codes: int | None = None  # size of the codebook where each latent cell is one of its vectors


@runtime_checkable
class Tokenizer(Protocol):
    """x, y: float (B, 3, 256, 256) in [0, 1]; z: (B, *info.latent_shape), the posterior's mode or code vectors, not
    scaled for diffusion."""

    info: TokenizerInfo

    def encode(self, x: Tensor) -> Tensor: ...

    def decode(self, z: Tensor) -> Tensor: ...


class ModelTokenizer:
    """A tokenizer around a module of diffusers' autoencoder kind; `encode_` and `decode_` are the subclass's.

    Inputs may be on any device and of any float type; results are float32 on the model's device.
    """

    def __init__(self, model: nn.Module, info: TokenizerInfo):
        self.model = model.eval().requires_grad_(False)
        self.info = info

    def to(self, *args, **kwargs) -> "ModelTokenizer":
        """As `torch.nn.Module.to`, in place. (diffusers' own warns of modules that are none of these
        models'.)"""
        nn.Module.to(self.model, *args, **kwargs)
        return self

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) in [0, 1], S = info.image_size → (B, *info.latent_shape). ValueError for other
        inputs."""
        side = self.info.image_size
        if x.ndim != 4 or tuple(x.shape[1:]) != (3, side, side) or not x.is_floating_point():
            raise ValueError(
                f"The tokenizer {self.info.name} takes float pictures (B, 3, {side}, {side}), not {x.dtype} "
                f"of shape {tuple(x.shape)}. Bring them through rpiae.images.letterbox() and to_tensor()."
            )
        low, high = x.min().item(), x.max().item()
        if not -RANGE_TOLERANCE <= low <= high <= 1 + RANGE_TOLERANCE:
            raise ValueError(f"Pictures must lie in [0, 1], these have values from {low:.3g} to {high:.3g}.")
        return self.encode_(self._to_model(x)).float()

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """(B, *info.latent_shape) → (B, 3, S, S), clamped to [0, 1]. ValueError for another shape."""
        if z.ndim != 4 or tuple(z.shape[1:]) != self.info.latent_shape:
            wanted = ", ".join(map(str, self.info.latent_shape))
            raise ValueError(f"Latents of {self.info.name} are (B, {wanted}), not {tuple(z.shape)}.")
        return self.decode_(self._to_model(z)).float().clamp(0, 1)

    def encode_(self, x: Tensor) -> Tensor:
        raise NotImplementedError(type(self).__name__)

    def decode_(self, z: Tensor) -> Tensor:
        raise NotImplementedError(type(self).__name__)

    def _to_model(self, x: Tensor) -> Tensor:
        parameter = next(self.model.parameters())
        return x.to(parameter.device, parameter.dtype)


class OwnTokenizer(ModelTokenizer):
    """Around an autoencoder of this library's, which has `latent_shape` and `config.image_size`: the mode of the
    posterior, or code vectors.

    Args:
        origin: where the weights are from, in words for people.
        codes: size of the codebook, where there is one.
    """

    def __init__(self, model: nn.Module, name: str, origin: str, licence: str, codes: int | None = None):
        side, shape = model.config.image_size, tuple(model.latent_shape)
        info = TokenizerInfo(name, shape, side // shape[1], count_parameters(model), origin, licence, side, codes)
        super().__init__(model, info)

    def encode_(self, x: Tensor) -> Tensor:
        return self.model.encode(x).latent_dist.mode()

    def decode_(self, z: Tensor) -> Tensor:
        return self.model.decode(z).sample


class KLTokenizer(ModelTokenizer):
    """Around diffusers' AutoencoderKL, which wants pictures in [-1, 1]: the mode of the posterior, without the factor
    or the statistics that diffusion models normalise it by."""

    def encode_(self, x: Tensor) -> Tensor:
        return self.model.encode(2 * x - 1).latent_dist.mode()

    def decode_(self, z: Tensor) -> Tensor:
        return (self.model.decode(z).sample + 1) / 2


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def with_random_weights(build: Callable[[], nn.Module]) -> nn.Module:
    """A model with the same random weights each time, without touching the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()
