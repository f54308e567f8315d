"""Feature spaces in which sets of pictures are compared: numbers of different spaces do not compare, so each has a name
that every table shows.

Inception-v3 as the published FIDs have it needs one weights file, DINOv2 a folder of transformers' (nothing is fetched
here that is not asked for by name); EfficientNet-Lite0 comes with a package and serves comparisons among our own.
"""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
from tqdm import tqdm
from transformers import Dinov2Model

from rpiae.encoder import IMAGENET_MEAN, IMAGENET_STD
from rpiae.loading import CONFIG, read_json, resolve, source_name
from rpiae.tokenizers.published import read_weights

from ..perceptual import efficientnet_lite0
from ..runtime import device

SPATIAL_CHANNELS = 7  # 7 x 17 x 17 numbers, about as many as the pooled features have


@dataclass(frozen=True)
class Features:
    """Of n pictures, float32 on the CPU: what distances are taken between and, where the space has them, class logits
    and features that still know where things are, for the sFID (Nash et al. 2021)."""

    pooled: Tensor  # (n, width)
    logits: Tensor | None = None  # (n, classes)
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


class DINOv2:
    """The class token of a DINOv2 after its last norm: with ViT-L/14 the Fréchet distance here is FD-DINOv2 (Stein et
    al. 2023). Pictures are resized to 224 px as EDM2 does, by a bicubic filter in float32, which is neither rounded nor
    clamped; the authors' resizes 8-bit pictures with Pillow. Positions are interpolated as transformers has it.

    Args:
        source: a folder of transformers', or "hf:facebook/dinov2-large".
    """

    def __init__(self, source: str | Path | None = None, device: str = "cpu"):
        if source is None:
            raise ValueError(
                "DINOv2's weights are needed: give a folder of transformers' with --dinov2, or --dinov2 "
                "hf:facebook/dinov2-large to have them fetched. FD-DINOv2 is published with that one, ViT-L/14."
            )
        folder, told = resolve(source), source_name(source)
        if (found := read_json(folder / CONFIG, "a DINOv2").get("model_type")) != "dinov2":
            raise ValueError(f"{told} holds a {found}, wanted is a dinov2 (without registers)")
        try:
            network, report = Dinov2Model.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"{told} holds no DINOv2 that can be loaded ({error})") from error
        if missing := sorted(report["missing_keys"]):  # transformers makes them up
            raise ValueError(f"{told} is no whole DINOv2: {', '.join(missing[:5])} missing")
        self.name = f"DINOv2 ({told}), class token, 224 px bicubic"
        self.network, self.device = network.eval().requires_grad_(False).to(device), device
        self.mean, self.std = (
            torch.tensor(values, device=device).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD)
        )

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Features:
        x = pictures.to(self.device).float()
        x = F.interpolate(x, size=(224, 224), mode="bicubic", antialias=True, align_corners=False)
        return Features(self.network((x / 255 - self.mean) / self.std).pooler_output.float().cpu())


SPACES = ("inception", "efficientnet-lite0", "dinov2")


def open_space(name: str, weights: str | Path | None = None, device: str = "cpu") -> FeatureSpace:
    """A feature space by its name in SPACES; `weights` is Inception's file or DINOv2's source."""
    if name not in SPACES:
        raise ValueError(f"there is no feature space {name!r}; use one of {', '.join(SPACES)}")
    if name == "efficientnet-lite0":
        return EfficientNetLite0(device)
    return (Inception if name == "inception" else DINOv2)(weights, device)


def add_options(parser: argparse.ArgumentParser, *others: str) -> None:
    """What a command asks of whom it measures for; `others`: choices beside the feature spaces."""
    parser.add_argument("--features", default="inception", choices=[*SPACES, *others], help="between which to measure")
    parser.add_argument("--inception", type=Path, help="Inception's weights file")
    parser.add_argument("--dinov2", help="DINOv2's folder, or hf:facebook/dinov2-large")


def asked_for(options: argparse.Namespace) -> FeatureSpace:
    """The feature space of a command's options."""
    return open_space(options.features, getattr(options, options.features, None), device())


def collect(space: FeatureSpace, batches: Iterable[Tensor], total: int, what: str) -> Features:
    """Features of all pictures of uint8 batches (B, 3, H, W), with a progress bar over `total` pictures."""
    parts = []
    with tqdm(total=total, desc=what, unit="picture", leave=False) as bar:
        for batch in batches:
            parts.append(space(batch))
            bar.update(len(batch))
    return joined(parts)


def joined(parts: list[Features]) -> Features:
    def of_all(name: str) -> Tensor | None:
        found = [getattr(part, name) for part in parts]
        return None if any(one is None for one in found) else torch.cat(found)

    return Features(of_all("pooled"), of_all("logits"), of_all("spatial"))
