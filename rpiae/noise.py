"""The noise that a picture starts from: a seed belongs to a picture, not to a batch or a device."""

import torch
from torch import Tensor


def draw_noise(
    count: int,
    shape: tuple[int, int, int],
    generator: torch.Generator | list[torch.Generator] | None = None,
    latents: Tensor | None = None,
) -> Tensor:
    """Noise for `count` pictures, (count, *shape) float32, drawn on the CPU picture by picture.

    Args:
        generator: one for all pictures in turn, or one per picture.
        latents: the noise itself, instead of drawing it.

    Raises:
        ValueError: the number of generators or the shape of the latents does not fit.
    """
    if latents is not None:
        if tuple(latents.shape) != (count, *shape):
            raise ValueError(f"latents must be {(count, *shape)}, they are {tuple(latents.shape)}")
        return latents.float()
    if isinstance(generator, (list, tuple)):
        if len(generator) != count:
            raise ValueError(f"{len(generator)} generators for {count} pictures; give one, or one for each")
        generators = list(generator)
    else:
        generators = [generator] * count
    for one in generators:
        if not isinstance(one, (torch.Generator, type(None))):
            raise ValueError(f"a generator must be a torch.Generator, not {one!r}; make one by torch.Generator()")
        if one is not None and one.device.type != "cpu":
            raise ValueError(f"a generator must be on the CPU, where noise is drawn; this one is on {one.device}")
    return torch.stack([torch.randn(shape, generator=one) for one in generators])
