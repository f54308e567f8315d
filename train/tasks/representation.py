"""Stage 0: teach a compact representation encoder what scenes show.

Dense image-text contrast: each token's feature, projected into the text encoder's space, must be nearest to the phrase
of what its patch shows ("a cat", "on a beach"); besides, linear layers read colour, style and the patch's pixels.
"""

from pathlib import Path

import torch
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from rpiae.encoder import RepresentationEncoder, build_encoder
from rpiae.layers import patchify
from rpiae.text import TextEncoder

from ..config import RepresentationStage, TrainingConfig
from ..data.pictures import COLORS, IGNORE, PHRASES, PictureSettings, ScenePictures
from ..linear_start import collect_pictures, least_squares, start_encoder
from ..runtime import compile_methods
from .task import Task

TAG, HELD_OUT_TAG = 10, 11
VALIDATION_PICTURES = 128


class DenseHeads(nn.Module):
    """Linear readers of token features: phrase (by text embeddings), colour, style, and pixels (normalised)."""

    def __init__(self, feature_channels: int, phrase_embeddings: Tensor, patch_width: int):
        super().__init__()
        centred = F.normalize(phrase_embeddings - phrase_embeddings.mean(0), dim=-1)
        self.register_buffer("phrases", centred)
        self.project = nn.Linear(feature_channels, centred.shape[1])
        self.log_scale = nn.Parameter(torch.tensor(3.0))
        self.color = nn.Linear(feature_channels, 1 + len(COLORS))
        self.style = nn.Linear(feature_channels, 2)
        self.pixels = nn.Linear(feature_channels, patch_width)

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
        patch_width = 3 * self.encoder.downsampling**2
        self.heads = DenseHeads(self.encoder.feature_channels, embeddings, patch_width)
        pictures = PictureSettings(crop=stage.crop, filtered=stage.filtered, labels=True)
        self.dataset = ScenePictures(config.seed, TAG, stage.samples, pictures)
        self.held_out = ScenePictures(config.seed, HELD_OUT_TAG, VALIDATION_PICTURES, pictures)

    def start(self) -> None:
        start_encoder(self.encoder, self.dataset)
        pictures = collect_pictures(self.dataset).to(self.heads.pixels.weight.device)
        with torch.no_grad():
            tokens, patches = self._tokens(pictures)
            least_squares(self.heads.pixels, tokens, patches)

    def compile(self) -> None:
        compile_methods(self.encoder, "forward")

    def _tokens(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (B, 3, H, W) in [0, 1] → token features (N, F) and normalised patches (N, p*p*3)."""
        features = rearrange(self.encoder(pictures), "b c h w -> (b h w) c")
        return features, patchify(self.encoder.normalise(pictures), self.encoder.downsampling).flatten(0, 1)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        stage = self.stage
        features, patches = self._tokens(batch["image"].float() / 255)
        losses = {
            name: F.cross_entropy(logits.float(), batch[name].flatten(), ignore_index=IGNORE)
            for name, logits in self.heads(features).items()
        }
        losses["pixels"] = F.mse_loss(self.heads.pixels(features).float(), patches)
        weights = {"phrase": stage.contrast, "color": stage.color, "style": stage.style, "pixels": stage.pixels}
        return losses | {"loss": sum(weights[name] * loss for name, loss in losses.items())}

    def validate(self) -> dict[str, float]:
        """Accuracy of phrase, colour and style on held-out crops, over the patches that show an object."""
        batch = torch.utils.data.default_collate([self.held_out[i] for i in range(VALIDATION_PICTURES)])
        batch = {k: v.to(self.heads.color.weight.device) for k, v in batch.items()}
        on_object = batch["color"].flatten() != IGNORE
        features, _ = self._tokens(batch["image"].float() / 255)
        hits = {k: logits.argmax(-1) == batch[k].flatten() for k, logits in self.heads(features).items()}
        return {f"held_out_{name}": float(hit[on_object].float().mean()) for name, hit in hits.items()}

    def export(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.encoder.state_dict(), folder / "encoder.safetensors")
