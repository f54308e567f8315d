"""What pipelines on RPiAE latents have in common: the way from a latent to a picture, and stopping on the way there."""

from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from . import images

OUTPUT_TYPES = ("pil", "pt", "latent")


class LatentPipeline(DiffusionPipeline):
    """A pipeline with a `vae` whose latents it draws. A subclass looks at `_interrupt` after each step."""

    _interrupt = False

    def interrupt(self) -> None:
        """Stop the running call after the step that it is in."""
        self._interrupt = True

    def decode_preview(self, prediction: Tensor) -> list[Image.Image]:
        """Normalised latents (n, C, h, w), such as a callback's `prediction`, as pictures of the model's size."""
        return images.to_pil(self._decode(prediction))

    @staticmethod
    def _check_output_type(output_type: str) -> None:
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type is {output_type!r}; use one of {', '.join(OUTPUT_TYPES)}")

    def _decode(self, x: Tensor) -> Tensor:
        """Normalised latents → pictures (n, 3, H, W) in [0, 1], float32; ValueError for values that are no numbers."""
        pictures = self.vae.decode(self.vae.denormalise(x.to(self.vae.dtype))).sample.float()
        # Here, because whoever compares such pictures finds no difference between them, and keeps the input.
        images.check_finite(pictures)
        return pictures.clamp(0, 1)
