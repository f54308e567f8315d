"""Stage 0: teach a compact representation encoder what scenes show, without any pixel loss.

Dense image-text contrast: each token's feature, projected into the text encoder's space, must be nearest to the phrase
of what its patch shows ("a cat", "on a beach"); besides, colour and style are read by linear layers.
"""

from pathlib import Path

import torch
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from rpiae.encoder import RepresentationEncoder, build_encoder
from rpiae.text import TextEncoder

from ..config import RepresentationStage, TrainingConfig
from ..data.pictures import COLORS, IGNORE, PHRASES, PictureSettings, ScenePictures
from ..linear_start import start_encoder
from .task import Task

TAG, HELD_OUT_TAG = 10, 11
VALIDATION_PICTURES = 128


class DenseHeads(nn.Module):
    """Linear readers of token features: phrase (by text embeddings), colour and style."""

    def __init__(self, feature_channels: int, phrase_embeddings: Tensor):
        super().__init__()
        centred = F.normalize(phrase_embeddings - phrase_embeddings.mean(0), dim=-1)
        self.register_buffer("phrases", centred)
        self.project = nn.Linear(feature_channels, centred.shape[1])
        self.log_scale = nn.Parameter(torch.tensor(3.0))
        self.color = nn.Linear(feature_channels, 1 + len(COLORS))
        self.style = nn.Linear(feature_channels, 2)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Features (N, F) → logits per label name."""
        towards = F.normalize(self.project(features).float(), dim=-1)
        phrase = towards @ self.phrases.T * self.log_scale.exp().clamp(max=100.0)
        return {"phrase": phrase, "color": self.color(features), "style": self.style(features)}


class RepresentationTask(Task):
    def __init__(self, config: TrainingConfig, stage: RepresentationStage):
        super().__init__()
        self.stage = stage
        self.encoder: RepresentationEncoder = build_encoder(config.models.encoder, config.models.image_size)
        embeddings = TextEncoder(**config.models.text_encoder).pooled(list(PHRASES))
        self.heads = DenseHeads(self.encoder.feature_channels, embeddings)
        pictures = PictureSettings(crop=stage.crop, filtered=stage.filtered, labels=True)
        self.dataset = ScenePictures(config.seed, TAG, stage.samples, pictures)
        self.held_out = ScenePictures(config.seed, HELD_OUT_TAG, VALIDATION_PICTURES, pictures)

    def start(self) -> None:
        start_encoder(self.encoder, self.dataset)

    def compile(self) -> None:
        self.encoder.model.compile()

    def _logits(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        features = self.encoder(batch["image"].float() / 255)
        return self.heads(rearrange(features, "b c h w -> (b h w) c"))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        losses = {
            name: F.cross_entropy(logits.float(), batch[name].flatten(), ignore_index=IGNORE)
            for name, logits in self._logits(batch).items()
        }
        weights = {"phrase": self.stage.contrast, "color": self.stage.color, "style": self.stage.style}
        return losses | {"loss": sum(weights[name] * loss for name, loss in losses.items())}

    def validate(self) -> dict[str, float]:
        """Accuracy per label on held-out crops, over patches that show an object (for phrases: also backgrounds)."""
        right = {}
        batch = torch.utils.data.default_collate([self.held_out[i] for i in range(VALIDATION_PICTURES)])
        batch = {k: v.to(self.heads.color.weight.device) for k, v in batch.items()}
        on_object = batch["color"].flatten() != IGNORE
        for name, logits in self._logits(batch).items():
            hit = logits.argmax(-1) == batch[name].flatten()
            right[f"held_out_{name}"] = float(hit[on_object].float().mean())
        return right

    def export(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.encoder.state_dict(), folder / "encoder.safetensors")
