"""What all stages of a tokenizer share: they are checked and shown on held-out pictures and their reconstructions."""

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from rpiae import images
from rpiae.autoencoder import AutoencoderRPiAE
from rpiae.metrics import psnr, ssim

from ..linear_start import collect_pictures
from .task import Task

VALIDATION_PICTURES = 32
SHOWN = 6


class ReconstructionTask(Task):
    vae: AutoencoderRPiAE
    held_out: Dataset  # of VALIDATION_PICTURES

    def validate(self) -> dict[str, float]:
        x, y = self._held_out()
        return {"held_out_psnr": float(psnr(x, y).mean()), "held_out_ssim": float(ssim(x, y).mean())}

    def sheet(self) -> Image.Image:
        """Some held-out pictures over their reconstructions."""
        x, y = self._held_out()
        rows = [torch.cat(list(row[:SHOWN]), dim=-1) for row in (x, y)]
        return images.to_pil(torch.cat(rows, dim=-2)[None])[0]

    def _held_out(self) -> tuple[Tensor, Tensor]:
        pictures = collect_pictures(self.held_out, VALIDATION_PICTURES).to(self.vae.device)
        return pictures, self.vae(pictures).float().clamp(0, 1)
