"""One phase of one row's tokenizer: the losses of all ideas in one place, of which a row asks for some."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rpiae.autoencoder import AutoencoderRPiAE
from rpiae.bridge import VariationalBridge
from rpiae.encoder import RepresentationEncoder, frozen_copy
from rpiae.layers import map_to_tokens
from rpiae.tokenizers.compact import AutoencoderCodebook, CodebookBridge

from ..config import AutoencoderStage
from ..linear_start import collect_pictures, start_bridge, start_decoder, start_encoder
from ..losses import bridge_losses, noisy_features, pivot_weight
from ..perceptual import PerceptualDistance
from ..tasks.autoencoder import BETWEEN_RUNS
from ..tasks.reconstruction import VALIDATION_PICTURES, ReconstructionTask
from .config import StudySettings
from .rows import Row
from .world import WorldPictures

TAG, HELD_OUT_TAG, LATENT_TAG = 60, 61, 62
LATENT_PICTURES = 256
# Of a picture's own noise: the posterior's, and strength and draw of what the decoder learns to live with.
POSTERIOR, STRENGTH, DRAWN, STREAMS = 0, 1, 2, 3
COMMITMENT = 0.25
START_LOGVAR = -4.0
# VA-VAE's margins (Yao et al. 2025, section 3.2): a cosine that is good enough, and a difference of cosines that is.
COSINE_MARGIN, DISTANCE_MARGIN = 0.5, 0.25


def build(study: StudySettings, row: Row, bridged: bool) -> AutoencoderRPiAE:
    """An untrained autoencoder of the study's one size."""
    models = study.models
    if row.latent == "codes" and bridged:
        # Its bridge's mean has as many numbers as a cell has in codes; the rest is the others' bridge.
        settings = {name: value for name, value in models.bridge.items() if name != "latent_channels"}
        bridge = study.codebook.model_dump() | settings
        return AutoencoderCodebook(models.encoder, models.decoder, bridge, models.image_size)
    return AutoencoderRPiAE(models.encoder, models.decoder, models.bridge if bridged else None, models.image_size)


def alignment_loss(projected: Tensor, wanted: Tensor) -> Tensor:
    """VA-VAE's two terms for a projected latent and a feature map, both (B, F, h, w): cells point the same way, and are
    to each other as the features' cells are, each up to a margin."""
    ours, theirs = (F.normalize(map_to_tokens(x).float(), dim=-1) for x in (projected, wanted))
    alike = F.relu(1 - COSINE_MARGIN - (ours * theirs).sum(-1)).mean()
    between = F.relu((ours @ ours.mT - theirs @ theirs.mT).abs() - DISTANCE_MARGIN).mean()
    return alike + between


class TokenizerTask(ReconstructionTask):
    """A phase of a row on an autoencoder.

    Args:
        vae: what the phase before left, or a fresh one.
        stage: the phase's settings.
        representation: the frozen one, for rows that are anchored to it.
        fresh: parts that no phase has trained yet; they get a linear start.
        first: how many pictures the phases before have seen: this one goes on after them.
    """

    def __init__(
        self,
        study: StudySettings,
        row: Row,
        stage: AutoencoderStage,
        vae: AutoencoderRPiAE,
        representation: RepresentationEncoder,
        seed: int,
        fresh: tuple[str, ...] = (),
        first: int = 0,
    ):
        super().__init__()
        self.row, self.stage, self.fresh, self.vae, self.seed = row, stage, fresh, vae, seed
        for name in ("encoder", "bridge", "decoder"):
            part = getattr(vae, name)
            if part is not None:
                part.requires_grad_(name in stage.trains)
        self.anchor = frozen_copy(representation) if stage.pivot else None
        self.project = None
        if stage.pivot and row.anchor == "latent":
            self.project = nn.Conv2d(vae.latent_shape[0], representation.feature_channels, 1, bias=False)
        self.perceptual = PerceptualDistance() if stage.perceptual else None
        self.sees_pixels = bool(stage.l1 or stage.mse or stage.perceptual)
        self.dataset = WorldPictures(study.world, seed, TAG, stage.samples, first=first)
        self.held_out = WorldPictures(study.world, seed, HELD_OUT_TAG, VALIDATION_PICTURES)
        self.for_latents = WorldPictures(study.world, seed, LATENT_TAG, LATENT_PICTURES)
        # Buffers, so that a resumed run goes on with the same weight.
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("anchor_weight", torch.tensor(float(stage.pivot)))

    @torch.no_grad()
    def start(self) -> None:
        if not self.fresh:
            return
        vae = self.vae
        if "encoder" in self.fresh:
            start_encoder(vae.encoder, self.dataset)
        pictures = collect_pictures(self.dataset).to(vae.device)
        features = vae.encode_features(pictures)
        if "bridge" in self.fresh:
            bridge: VariationalBridge = getattr(vae.bridge, "bridge", vae.bridge)  # a codebook's own is inside
            start_bridge(bridge, features, pictures, self.row.bridge_pixels)
            # A posterior as wide as the latent itself would hide the linear code, and narrows slowly.
            bridge.encoder.moments.bias[bridge.latent_channels :] = START_LOGVAR
            if isinstance(vae.bridge, CodebookBridge):
                vae.bridge.fit_codes(features)
            if self.project is not None:
                latent, wanted = (
                    map_to_tokens(x).flatten(0, 1)
                    for x in (vae.bridge.encode(features).mode(), self.anchor(pictures))
                )
                self.project.weight.copy_(torch.linalg.lstsq(latent, wanted).solution.T[:, :, None, None])
        if "decoder" in self.fresh:
            # With the noise that it will see: a head that is fitted without would blow it up.
            numbers = torch.arange(len(pictures))
            if vae.bridge is None:
                given = self._noisy(features, numbers)
            else:
                latent = vae.bridge.encode(features).mode()
                given = vae.bridge.decode(latent if self.row.latent == "codes" else self._noisy(latent, numbers))
            start_decoder(vae.decoder, given, pictures)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        stage, vae = self.stage, self.vae
        x = batch["image"].float() / 255
        features = vae.encode_features(x)
        losses: dict[str, Tensor] = {}
        latent = given = self._noisy(features, batch["index"]) if vae.bridge is None else features
        if vae.bridge is not None:
            posterior = vae.bridge.encode(features)
            latent = posterior.mode()
            if self.row.latent == "sample" and self.training and "bridge" in stage.trains:
                latent = posterior.sample(noise=self._noise(latent, batch["index"], POSTERIOR))
            if self.row.latent == "codes":
                losses["codes"] = self._codes_loss(features)
                given = vae.bridge.decode(latent)
            else:
                given = vae.bridge.decode(self._noisy(latent, batch["index"]))
            found = bridge_losses(given, features, posterior)
            losses |= {name: loss for name, loss in found.items() if getattr(stage, name)}
        seen = self._pixel_losses(vae.decoder(given).float(), x) if self.sees_pixels else {}
        losses |= seen
        total = sum(getattr(stage, name, 1.0) * loss for name, loss in losses.items())
        if self.anchor is not None:
            with torch.no_grad():
                wanted = self.anchor(x)
            if self.project is None:
                losses["anchor"] = F.mse_loss(features.float(), wanted.float())
            else:
                losses["anchor"] = alignment_loss(self.project(latent), wanted)
            reconstruction = sum(getattr(stage, name) * loss for name, loss in seen.items())
            self._update_anchor_weight(reconstruction, losses["anchor"])
            losses["anchor_weight"] = self.anchor_weight.clone()
            total = total + losses["anchor_weight"] * losses["anchor"]
        return losses | {"loss": total}

    def _pixel_losses(self, reconstruction: Tensor, x: Tensor) -> dict[str, Tensor]:
        stage = self.stage
        losses = {"l1": F.l1_loss(reconstruction, x), "mse": F.mse_loss(reconstruction, x)}
        if self.perceptual is not None:
            count = max(1, round(stage.perceptual_share * len(x)))
            losses["perceptual"] = self.perceptual(x[:count], reconstruction[:count]).float().mean()
        return losses

    def _codes_loss(self, features: Tensor) -> Tensor:
        """Codes move to what is brought to them, and a little the other way round (van den Oord et al. 2017)."""
        values = self.vae.bridge.before_codes(features).float()
        codes = self.vae.bridge.to_codes(values).float()
        return F.mse_loss(codes, values.detach()) + COMMITMENT * F.mse_loss(values, codes.detach())

    def _noisy(self, latent: Tensor, index: Tensor) -> Tensor:
        """The decoder learns to live with what a diffusion model draws: noise of a deviation tau * U(0, 1) squared, on
        the scale that the transformer will see, the same for every row whose latent is continuous."""
        if not self.stage.latent_noise_tau or not self.training:
            return latent
        values = latent.detach().float()
        rms = (values - values.mean((0, 2, 3), keepdim=True)).square().mean().sqrt()
        uniform = torch.stack([torch.rand((), generator=one) ** 2 for one in self._generators(index, STRENGTH)])
        noise = self._noise(latent, index, DRAWN)
        return noisy_features(latent, self.stage.latent_noise_tau * rms, uniform.to(latent.device), noise)

    def _noise(self, like: Tensor, index: Tensor, stream: int) -> Tensor:
        """Standard normal: a picture's by the row's seed and its number, whatever batch or process it is in."""
        drawn = [torch.randn(like.shape[1:], generator=one) for one in self._generators(index, stream)]
        return torch.stack(drawn).to(like.device, like.dtype)

    def _generators(self, index: Tensor, stream: int) -> Iterator[torch.Generator]:
        first = self.seed * BETWEEN_RUNS
        return (torch.Generator().manual_seed((first + STREAMS * n + stream) % 2**32) for n in index.tolist())

    def _update_anchor_weight(self, reconstruction: Tensor, anchored: Tensor) -> None:
        """pivot * |grad reconstruction| / |grad anchor| at one encoder parameter, for RPiAE and VA-VAE alike."""
        if not (self.training and torch.is_grad_enabled()):
            return
        stage, step = self.stage, int(self.steps)
        self.steps += 1
        if step % stage.pivot_every == 0:
            parameter = self.vae.encoder.adaptive_weight_parameter(stage.pivot_parameter)
            weight = pivot_weight(reconstruction, anchored, parameter, step, stage.pivot, stage.pivot_constant_steps)
            self.anchor_weight.copy_(weight)

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        """The autoencoder, with one rule for all rows to bring its latent to the diffusion transformer's scale: no mean
        a channel, mean square one over all."""
        pictures = collect_pictures(self.for_latents, LATENT_PICTURES).to(self.vae.device)
        latents = self.vae.encode(pictures).latent_dist.mode().float()
        mean = latents.mean((0, 2, 3))
        scale = (latents - mean.view(1, -1, 1, 1)).square().mean().clamp_min(1e-12).rsqrt()
        self.vae.register_to_config(latents_mean=mean.tolist(), latents_scale=[float(scale)] * len(mean))
        self.vae.save_pretrained(folder)

