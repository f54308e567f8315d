"""What the discrete tokenizers share: every cell of the latent is one of a codebook's vectors, and has its number."""

from torch import Tensor, cdist, nn

from .base import ModelTokenizer


class CodebookTokenizer(ModelTokenizer):
    """Latents are code vectors: `encode` gives the nearest ones, `decode` takes them (or anything else) as they are.

    `ids` and `from_ids` are the same in numbers, which is what an autoregressive or masked model draws. A subclass
    says what its encoder gives before the codebook, `features_`, and where the codebook is.
    """

    @property
    def codebook(self) -> Tensor:
        """(codes, C)"""
        raise NotImplementedError(type(self).__name__)

    def features_(self, x: Tensor) -> Tensor:
        raise NotImplementedError(type(self).__name__)

    def encode_(self, x: Tensor) -> Tensor:
        return self.from_ids(self._nearest(self.features_(x)))

    def ids(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) in [0, 1] → numbers of codes (B, h, w)."""
        return self._nearest(self.encode(x))

    def from_ids(self, ids: Tensor) -> Tensor:
        """Numbers of codes (B, h, w) → latents (B, C, h, w). ValueError for numbers outside the codebook."""
        if not 0 <= ids.min() <= ids.max() < len(self.codebook):
            last = len(self.codebook) - 1
            raise ValueError(f"The codes of {self.info.name} are 0 to {last}, not {ids.min()} to {ids.max()}.")
        return nn.functional.embedding(ids, self.codebook).movedim(-1, 1).contiguous()

    def _nearest(self, features: Tensor) -> Tensor:
        """(B, C, h, w) → (B, h, w). In float32: half precision confuses neighbours."""
        cells = features.float().movedim(1, -1)
        distances = cdist(cells.flatten(0, 2), self.codebook.float())
        return distances.argmin(-1).view(cells.shape[:-1])
