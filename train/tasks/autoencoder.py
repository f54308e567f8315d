"""Stages 1 to 3 of the tokenizer, from one table of what trains and which losses count.

pivot:   encoder and pixel decoder train; the pivot replica holds the representation. L1 + perceptual + adaptive pivot.
bridge:  the bridge trains: feature MSE + KL + L1.
decoder: the pixel decoder trains on fixed latents: L1 + perceptual.
(RPiAE paper, objective-decoupled stages; weights of the released configs in reference facts (a).)
"""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from rpiae import images
from rpiae.autoencoder import AutoencoderRPiAE
from rpiae.encoder import frozen_copy
from rpiae.metrics import psnr, ssim

from ..config import AutoencoderStage
from ..data.pictures import PictureSettings, ScenePictures
from ..linear_start import collect_pictures, start_bridge, start_decoder
from ..losses import bridge_losses, noisy_features, pivot_weight
from ..perceptual import PerceptualDistance
from ..runtime import compile_methods
from ..semantic_axes import turn_to_meaning
from .task import Task

TAG, HELD_OUT_TAG, LATENT_TAG, SEMANTIC_TAG = 20, 21, 22, 23
VALIDATION_PICTURES = 32
LATENT_PICTURES = 256
SEMANTIC_PICTURES = 640
# Pixels against features in the bridge's linear start, as standard deviations.
BRIDGE_PIXEL_WEIGHT = 1.5


class AutoencoderTask(Task):
    """One stage on an autoencoder; `fresh_decoder` and `fresh_bridge` say which parts get a linear start."""

    def __init__(self, vae: AutoencoderRPiAE, stage: AutoencoderStage, seed: int, fresh: tuple[str, ...] = ()):
        super().__init__()
        self.stage, self.fresh = stage, fresh
        self.vae = vae
        for name in ("encoder", "bridge", "decoder"):
            part = getattr(vae, name)
            if part is not None:
                part.requires_grad_(name in stage.trains)
        self.pivot_replica = frozen_copy(vae.encoder) if stage.pivot else None
        self.perceptual = PerceptualDistance() if stage.perceptual else None
        pictures = PictureSettings(crop=stage.crop, filtered=stage.filtered, letterboxed=stage.letterboxed)
        self.seed = seed
        self.dataset = ScenePictures(seed, TAG, stage.samples, pictures)
        self.held_out = ScenePictures(seed, HELD_OUT_TAG, VALIDATION_PICTURES, PictureSettings())
        # Buffers, so that a resumed run goes on with the same weight.
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("pivot_weight", torch.tensor(float(stage.pivot)))

    def start(self) -> None:
        pictures = collect_pictures(self.dataset).to(self.vae.device)
        with torch.no_grad():
            features = self.vae.encode_features(pictures)
        if "bridge" in self.fresh:
            start_bridge(self.vae.bridge, features, pictures, BRIDGE_PIXEL_WEIGHT)
        if "decoder" in self.fresh:
            start_decoder(self.vae.decoder, features, pictures)

    def compile(self) -> None:
        compile_methods(self.vae.encoder, "forward")
        compile_methods(self.vae.decoder, "forward")
        if self.vae.bridge is not None:
            compile_methods(self.vae.bridge, "encode", "decode")

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        stage, vae = self.stage, self.vae
        x = batch["image"].float() / 255
        features = vae.encode_features(x)
        losses: dict[str, Tensor] = {}
        rms = features.detach().float().square().mean().sqrt()
        given = self._noisy(features, stage.noise_tau * rms, batch["index"])
        if vae.bridge is not None:
            posterior = vae.bridge.encode(given)
            latent = vae.normalise(posterior.mode())
            latent = self._noisy(latent, stage.latent_noise_tau, batch["index"], power=2)
            given = vae.bridge.decode(vae.denormalise(latent))
            found = bridge_losses(given, features, posterior)
            losses |= {name: loss for name, loss in found.items() if getattr(stage, name)}
        reconstruction = vae.decoder(given).float()
        losses["l1"] = F.l1_loss(reconstruction, x)
        if stage.mse:
            losses["mse"] = F.mse_loss(reconstruction, x)
        if self.perceptual is not None:
            count = max(1, round(stage.perceptual_share * len(x)))
            losses["perceptual"] = self.perceptual(x[:count], reconstruction[:count]).float().mean()
        weights = {name: getattr(stage, name) for name in losses}
        total = sum(weights[name] * loss for name, loss in losses.items())
        if self.pivot_replica is not None:
            with torch.no_grad():
                wanted = self.pivot_replica(x)
            losses["pivot"] = F.mse_loss(features.float(), wanted.float())
            self._update_pivot_weight(total, losses["pivot"])
            losses["pivot_weight"] = self.pivot_weight.clone()
            total = total + losses["pivot_weight"] * losses["pivot"]
        return losses | {"loss": total}

    def _noisy(self, values: Tensor, tau: float | Tensor, index: Tensor, power: int = 1) -> Tensor:
        """Features or latents with noise of a strength drawn per picture, tau * U(0, 1) ** power, which what follows
        learns to live with. The noise belongs to the picture's number, whatever batch or process it is in."""
        if not tau or not self.training:
            return values
        uniform, noise = [], []
        for number in index.tolist():
            generator = torch.Generator().manual_seed(number)
            uniform.append(torch.rand((), generator=generator) ** power)
            noise.append(torch.randn(values.shape[1:], generator=generator))
        uniform, noise = (torch.stack(drawn).to(values.device) for drawn in (uniform, noise))
        return noisy_features(values, tau, uniform, noise)

    def _update_pivot_weight(self, reconstruction: Tensor, pivot: Tensor) -> None:
        """The authors' balance: pivot * |grad reconstruction| / |grad pivot| at one encoder parameter."""
        if not (self.training and torch.is_grad_enabled()):
            return
        stage, step = self.stage, int(self.steps)
        self.steps += 1
        if stage.pivot_weighting == "adaptive" and step % stage.pivot_every == 0:
            parameter = self.vae.encoder.adaptive_weight_parameter(stage.pivot_parameter)
            weight = pivot_weight(reconstruction, pivot, parameter, step, stage.pivot, stage.pivot_constant_steps)
            self.pivot_weight.copy_(weight)

    def _held_out(self) -> tuple[Tensor, Tensor]:
        pictures = collect_pictures(self.held_out, VALIDATION_PICTURES).to(self.vae.device)
        return pictures, self.vae(pictures).float().clamp(0, 1)

    def validate(self) -> dict[str, float]:
        x, y = self._held_out()
        return {"held_out_psnr": float(psnr(x, y).mean()), "held_out_ssim": float(ssim(x, y).mean())}

    def sheet(self) -> Image.Image:
        """Six held-out pictures over their reconstructions."""
        x, y = self._held_out()
        rows = [torch.cat(list(row[:6]), dim=-1) for row in (x, y)]
        return images.to_pil(torch.cat(rows, dim=-2)[None])[0]

    def export(self, folder: Path) -> None:
        if "bridge" in self.stage.trains and self.stage.semantic_channels:
            scenes = ScenePictures(self.seed, SEMANTIC_TAG, SEMANTIC_PICTURES, PictureSettings(labels=True))
            turn_to_meaning(self.vae, scenes, self.stage.semantic_channels, self.stage.semantic_gain)
        if self.vae.bridge is not None:
            self._measure_latents()
        self.vae.save_pretrained(folder)

    @torch.no_grad()
    def _measure_latents(self) -> None:
        """Constants that normalise the latent for the diffusion transformer, kept in the config: no mean, and one scale
        for all channels, which brings the mean square to one.

        Channels are not whitened. A unit of latent moves the pixels by about the same whatever its channel, so the
        spectrum is that of pictures, and sampling goes from coarse to fine. A white latent asks for everything at once:
        stickers stayed mosaics (docs/training.md).
        """
        scenes = ScenePictures(self.seed, LATENT_TAG, LATENT_PICTURES, PictureSettings(filtered=0.2))
        pictures = collect_pictures(scenes, LATENT_PICTURES).to(self.vae.device)
        latents = self.vae.encode(pictures).latent_dist.mode()
        mean = latents.mean((0, 2, 3))
        scale = (latents - mean.view(1, -1, 1, 1)).square().mean().clamp_min(1e-12).rsqrt()
        self.vae.register_to_config(latents_mean=mean.tolist(), latents_scale=[float(scale)] * len(mean))
