"""LlamaGen's VQ-16 (f16, 16,384 codes of 8 numbers, all of length one; Sun et al. 2024), as diffusers' VQModel.

Licence of the published weights: MIT (`FoundationVision/LlamaGen`).
"""

import os

from diffusers import VQModel
from torch import Tensor, nn

from .codebook import CodebookTokenizer
from .ldm import ARCHITECTURE, llamagen_name
from .published import Published

CODEBOOK = {"latent_channels": 256, "vq_embed_dim": 8, "num_vq_embeddings": 16384}
PUBLISHED = Published(
    name="llamagen-vq",
    hub_id="FoundationVision/LlamaGen",
    file="vq_ds16_c2i.pt",
    licence="MIT",
    latent_shape=(CODEBOOK["vq_embed_dim"], 16, 16),
    downsampling=16,
    codes=CODEBOOK["num_vq_embeddings"],
)
TRAINING_ONLY = ("quantize.codebook_used",)  # which codes came last
find = PUBLISHED.find


class LlamaGenTokenizer(CodebookTokenizer):
    """Codes are compared by direction, so features are brought to length one as the codes are."""

    @property
    def codebook(self) -> Tensor:
        return self.model.quantize.embedding.weight

    def features_(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(self.model.encode(2 * x - 1).latents, dim=1)

    def decode_(self, z: Tensor) -> Tensor:
        return (self.model.decode(z, force_not_quantize=True).sample + 1) / 2


def build() -> VQModel:
    return VQModel(**ARCHITECTURE, **CODEBOOK)


def load(source: str | os.PathLike | None = None) -> LlamaGenTokenizer:
    """From the published .pt, a folder that holds it, "hf:org/name", "random" or, without a source, what is on this
    machine. Raises ValueError."""
    model, info = PUBLISHED.load(source, build, llamagen_name, TRAINING_ONLY)
    codes = model.quantize.embedding.weight
    codes.data = nn.functional.normalize(codes.data, dim=1)
    return LlamaGenTokenizer(model, info)
