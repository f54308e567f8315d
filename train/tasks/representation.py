"""Stage 0: teach a compact representation encoder what scenes show.

Dense image-text contrast: each token's feature, projected into the text encoder's space, must be nearest to the phrase
of what its patch shows ("a cat", "on a beach"); besides, linear layers read colour, style, size, where in the object
the patch lies, and the patch's pixels.
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
from ..data.pictures import IGNORE, PHRASES, PictureSettings, ScenePictures
from ..dense_heads import DenseHeads
from ..linear_start import collect_pictures, least_squares, start_encoder
from ..runtime import compile_methods
from .task import Task

TAG, HELD_OUT_TAG = 10, 11
VALIDATION_PICTURES = 128
# Of the channels that start as pixels; the rest is room for meaning.
PIXEL_SHARE = 2 / 3


class RepresentationTask(Task):
    def __init__(self, config: TrainingConfig, stage: RepresentationStage):
        super().__init__()
        self.stage = stage
        self.encoder: RepresentationEncoder = build_encoder(config.models.encoder, config.models.image_size)
        embeddings = TextEncoder(**config.models.text_encoder).pooled(list(PHRASES))
        patch_width = 3 * self.encoder.downsampling**2
        self.heads = DenseHeads(self.encoder.feature_channels, embeddings)
        self.pixels = nn.Linear(self.encoder.feature_channels, patch_width)
        pictures = PictureSettings(crop=stage.crop, filtered=stage.filtered, labels=True)
        self.dataset = ScenePictures(config.seed, TAG, stage.samples, pictures)
        self.held_out = ScenePictures(config.seed, HELD_OUT_TAG, VALIDATION_PICTURES, pictures)

    def start(self) -> None:
        start_encoder(self.encoder, self.dataset, PIXEL_SHARE)
        pictures = collect_pictures(self.dataset).to(self.pixels.weight.device)
        with torch.no_grad():
            tokens, patches = self._tokens(pictures)
            least_squares(self.pixels, tokens, patches)

    def compile(self) -> None:
        compile_methods(self.encoder, "forward")

    def _tokens(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (B, 3, H, W) in [0, 1] → token features (N, F) and normalised patches (N, p*p*3)."""
        features = rearrange(self.encoder(pictures), "b c h w -> (b h w) c")
        return features, patchify(self.encoder.normalise(pictures), self.encoder.downsampling).flatten(0, 1)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        stage = self.stage
        features, patches = self._tokens(batch["image"].float() / 255)
        losses = self.weighed(self.heads.losses(features, batch), batch)
        losses["pixels"] = F.mse_loss(self.pixels(features).float(), patches)
        weights = {name: getattr(stage, "contrast" if name == "phrase" else name) for name in losses}
        return losses | {"loss": sum(weights[name] * loss for name, loss in losses.items())}

    def counts(self, part: dict[str, Tensor]) -> dict[str, Tensor]:
        on_object = (part["color"] != IGNORE).sum()
        return {name: on_object for name in ("color", "style", "size", "offset")}

    def validate(self) -> dict[str, float]:
        """Accuracy of phrase, colour, style and size on held-out crops, over the patches that show an object; how far
        the offset is off, in sides of the object; and how well pixels are read, in dB of the normalised patch."""
        batch = torch.utils.data.default_collate([self.held_out[i] for i in range(VALIDATION_PICTURES)])
        batch = {k: v.to(self.heads.color.weight.device) for k, v in batch.items()}
        on_object = batch["color"].flatten() != IGNORE
        features, patches = self._tokens(batch["image"].float() / 255)
        missed = (self.heads.offset(features) - batch["offset"].flatten(0, 2)).norm(dim=1)[on_object].mean()
        noise = F.mse_loss(self.pixels(features), patches)
        hits = {k: logits.argmax(-1) == batch[k].flatten() for k, logits in self.heads(features).items()}
        shares = {f"held_out_{name}": float(hit[on_object].float().mean()) for name, hit in hits.items()}
        return shares | {"held_out_offset": float(missed), "held_out_pixels": float(noise)}

    def export(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.encoder.state_dict(), folder / "encoder.safetensors")
