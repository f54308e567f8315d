"""Linear readers of what each patch of a scene shows, and their losses.

The representation stage learns from them, and a diffusion transformer may read them from its hidden tokens on the way:
what REPA (Yu et al., 2024, arXiv:2410.06940) does with the features of a representation encoder.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .data.pictures import COLORS, IGNORE, SIZES

STYLES = 2


class DenseHeads(nn.Module):
    """Reads phrase (as the nearest of the text encoder's embeddings), colour, style, size and offset from features
    (N, F); the labels are those of `train.data.pictures.token_labels`."""

    def __init__(self, feature_channels: int, phrase_embeddings: Tensor):
        super().__init__()
        centred = F.normalize(phrase_embeddings - phrase_embeddings.mean(0), dim=-1)
        self.register_buffer("phrases", centred)
        self.project = nn.Linear(feature_channels, centred.shape[1])
        self.log_scale = nn.Parameter(torch.tensor(3.0))
        self.color = nn.Linear(feature_channels, 1 + len(COLORS))
        self.style = nn.Linear(feature_channels, STYLES)
        self.size = nn.Linear(feature_channels, len(SIZES))
        self.offset = nn.Linear(feature_channels, 2)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Features (N, F) → logits per class label's name."""
        towards = F.normalize(self.project(features).float(), dim=-1)
        phrase = towards @ self.phrases.T * self.log_scale.exp().clamp(max=100.0)
        others = {name: getattr(self, name)(features) for name in ("color", "style", "size")}
        return {"phrase": phrase} | others

    def losses(self, features: Tensor, labels: dict[str, Tensor]) -> dict[str, Tensor]:
        """Features (N, F) and labels of N patches in any shape → the mean loss of each reader: cross entropy for
        classes, squared distance in sides of the object for the offset, on objects only."""
        losses = {
            name: F.cross_entropy(logits.float(), labels[name].flatten(), ignore_index=IGNORE)
            for name, logits in self(features).items()
        }
        on_object = (labels["color"].flatten() != IGNORE).float()
        missed = (self.offset(features).float() - labels["offset"].reshape(-1, 2)).square().mean(1)
        losses["offset"] = (missed * on_object).sum() / on_object.sum().clamp_min(1)
        return losses
