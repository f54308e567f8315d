"""Feature spaces in which sets of pictures are compared: numbers of different spaces do not compare, so each has a name
that every table shows.

Inception-v3 as the published FIDs have it needs one weights file (nothing is fetched here); EfficientNet-Lite0 comes
with a package and serves comparisons among our own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
from tqdm import tqdm

from rpiae.tokenizers.published import read_weights

from ..perceptual import efficientnet_lite0

SPATIAL_CHANNELS = 7  # 7 x 17 x 17 numbers, about as many as the pooled features have


@dataclass(frozen=True)
class Features:
    """Of n pictures, float32 on the CPU: what distances are taken between, class logits and, where the space has them,
    features that still know where things are, for the sFID (Nash et al. 2021)."""

    pooled: Tensor  # (n, width)
    logits: Tensor  # (n, classes)
    spatial: Tensor | None = None  # (n, rows * columns * channels)


class FeatureSpace(Protocol):
    name: str  # for tables

    def __call__(self, pictures: Tensor) -> Features:
        """uint8 (B, 3, H, W)"""


class Inception:
    """The Inception-v3 of December 2015 by which FID, IS, precision and recall are published, as torch-fidelity has it:
    weights of the TensorFlow graph, its way to resize, logits without the last bias. Its spatial features are ADM's:
    the first channels of the first convolution in the graph's "mixed_6", which is torchvision's Mixed_6d.

    Args:
        weights: its .pth; None is torch hub's checkpoints folder.
    """

    name = "Inception-v3 (2015-12-05), pool3"

    def __init__(self, weights: Path | None = None, device: str = "cpu"):
        file = URL_INCEPTION_V3.rpartition("/")[2]
        path = Path(weights) if weights else Path(torch.hub.get_dir()) / "checkpoints" / file
        if not path.is_file():
            where = f"{path.name!r} is not there" if weights else "torch hub's checkpoints folder does not have it"
            raise ValueError(
                f"Inception's weights are needed and {where}. Fetch {file} from the releases of torch-fidelity "
                f"({URL_INCEPTION_V3}) and give it with --inception."
            )
        read_weights(path)  # torch-fidelity opens it without looking: refuse what is damaged or holds code
        try:
            network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], str(path))
        except RuntimeError as error:
            raise ValueError(f"{path.name} is not Inception's: {str(error).splitlines()[0]}") from error
        self.network, self.device = network.to(device), device
        self._spatial: Tensor | None = None
        network.Mixed_6d.branch1x1.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        # Channels last, as the reference batches' stored statistics (mu_s, sigma_s) have them.
        self._spatial = output[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1).float().cpu()

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Features:
        pooled, logits = (one.float().cpu() for one in self.network(pictures.to(self.device)))
        return Features(pooled, logits, self._spatial)


class EfficientNetLite0:
    """An ImageNet classifier whose weights come with a package; pictures are resized to 224 px."""

    name = "EfficientNet-Lite0 (ImageNet), pooled"

    def __init__(self, device: str = "cpu"):
        self.network, self.device = efficientnet_lite0().eval().requires_grad_(False).to(device), device

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Features:
        x = pictures.to(self.device).float() / 127.5 - 1
        x = F.interpolate(x, size=(224, 224), mode="bilinear", antialias=True, align_corners=False)
        pooled = self.network.forward_head(self.network.forward_features(x), pre_logits=True)
        return Features(pooled.float().cpu(), self.network.classifier(pooled).float().cpu())


SPACES = ("inception", "efficientnet-lite0")


def open_space(name: str, weights: Path | None = None, device: str = "cpu") -> FeatureSpace:
    """A feature space by its name in SPACES; `weights` is Inception's file."""
    if name not in SPACES:
        raise ValueError(f"there is no feature space {name!r}; use one of {', '.join(SPACES)}")
    return Inception(weights, device) if name == "inception" else EfficientNetLite0(device)


def collect(space: FeatureSpace, batches: Iterable[Tensor], total: int, what: str) -> Features:
    """Features of all pictures of uint8 batches (B, 3, H, W), with a progress bar over `total` pictures."""
    parts = []
    with tqdm(total=total, desc=what, unit="picture", leave=False) as bar:
        for batch in batches:
            parts.append(space(batch))
            bar.update(len(batch))
    return joined(parts)


def joined(parts: list[Features]) -> Features:
    spatial = None if any(part.spatial is None for part in parts) else torch.cat([part.spatial for part in parts])
    return Features(torch.cat([part.pooled for part in parts]), torch.cat([part.logits for part in parts]), spatial)
