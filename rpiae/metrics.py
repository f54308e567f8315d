"""How alike two pictures are: PSNR, SSIM and LPIPS a picture, and maps of where they differ.

Everything takes float tensors (B, 3, H, W) in [0, 1] and clamps them to that range, so that the numbers are
about what is shown. Nothing is ever downloaded.
"""

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

# The backbones that `lpips` asks torchvision for; its own linear heads come inside the package.
LPIPS_BACKBONES = {"vgg": "vgg16-397923af.pth", "alex": "alexnet-owt-7be5be79.pth"}
SSIM_SIDE = 6  # pixels: its window reaches 5 beyond a border, where the picture is mirrored


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, (B, 3, H, W) twice → (B,); infinite for equal pictures."""
    x, y = _alike(x, y)
    return peak_signal_noise_ratio(y, x, data_range=1.0, reduction="none", dim=(1, 2, 3))


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity (Gaussian window of 11 px), (B, 3, H, W) twice → (B,); 1 for equal pictures.

    Raises ValueError for pictures of fewer than SSIM_SIDE rows or columns.
    """
    x, y = _alike(x, y)
    if min(x.shape[-2:]) < SSIM_SIDE:
        raise ValueError(f"SSIM needs pictures of at least {SSIM_SIDE} pixels a side.")
    return structural_similarity_index_measure(y, x, data_range=1.0, reduction="none").reshape(len(x))


def lpips(x: Tensor, y: Tensor, backbone: str = "vgg") -> tuple[Tensor | None, str | None]:
    """LPIPS distance, (B, 3, H, W) twice → ((B,), None), or (None, why not) where its weights are not on this
    disk.

    `backbone` is "vgg" or "alex"; their numbers do not compare.
    """
    x, y = _alike(x, y)
    if backbone not in LPIPS_BACKBONES:
        raise ValueError(f"LPIPS has the backbones {', '.join(LPIPS_BACKBONES)}, not {backbone!r}.")
    # Asked for first: without the file, lpips would send torchvision to download it.
    weights = Path(torch.hub.get_dir()) / "checkpoints" / LPIPS_BACKBONES[backbone]
    if not weights.is_file():
        return None, f"LPIPS needs {weights.name} in torch hub's checkpoints folder; it is not there."
    try:
        network = _lpips_network(backbone)
    except ImportError:
        return None, "LPIPS needs the package lpips: pip install lpips"
    with torch.no_grad():
        return network.to(x.device)(x, y, normalize=True).reshape(len(x)), None


def error_map(x: Tensor, y: Tensor, gain: float = 4.0) -> Tensor:
    """Absolute difference of each channel times `gain`, clamped to [0, 1]; (B, 3, H, W) twice → (B, 3, H,
    W)."""
    x, y = _alike(x, y)
    return ((x - y).abs() * gain).clamp(0, 1)


def _alike(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if x.ndim != 4 or x.shape[1] != 3 or x.shape != y.shape:
        raise ValueError(
            f"Two pictures to compare must both be (B, 3, H, W), not {tuple(x.shape)} and {tuple(y.shape)}."
        )
    return x.float().clamp(0, 1), y.float().clamp(0, 1)


@lru_cache(maxsize=2)
def _lpips_network(backbone: str) -> torch.nn.Module:
    from lpips import LPIPS

    return LPIPS(net=backbone, verbose=False).eval().requires_grad_(False)
