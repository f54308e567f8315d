"""Stages 1 to 3 of the tokenizer, from one table of what trains and which losses count.

pivot:   encoder and pixel decoder train; the pivot replica holds the representation. L1 + perceptual + adaptive pivot
         (+ adaptive GAN).
bridge:  the bridge trains: feature MSE + KL + L1.
decoder: the pixel decoder trains on fixed latents: L1 + perceptual (+ adaptive GAN).
(RPiAE paper, objective-decoupled stages; weights of the released configs in reference facts (a).)
"""

import copy
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from rpiae.autoencoder import AutoencoderRPiAE
from rpiae.bridge import Posterior
from rpiae.encoder import frozen_copy

from ..config import AutoencoderStage
from ..data.examples import PictureFiles
from ..data.pictures import PictureSettings, ScenePictures
from ..data.reader import Reader
from ..linear_start import collect_pictures, start_bridge, start_decoder
from ..losses import bridge_losses, gan_weight, generator_loss, noisy_features, pivot_weight
from ..opponent import Opponent
from ..perceptual import perceptual_distance
from ..runtime import compile_methods, mean_over_processes
from ..semantic_axes import turn_to_meaning
from .reconstruction import VALIDATION_PICTURES, ReconstructionTask

TAG, HELD_OUT_TAG, LATENT_TAG, SEMANTIC_TAG = 20, 21, 22, 23
LATENT_PICTURES = 256
SEMANTIC_PICTURES = 640
# Where the seeds of a picture's noise begin, by what it is for; torch keeps 32 bits of a seed.
ON_LATENT, ON_FEATURES, OF_POSTERIOR = 0, 2**30, 2**31
# So far apart are those of a run's seed and the next: 2**32 in the golden ratio, which keeps any number of them apart.
BETWEEN_RUNS = 0x9E3779B1
# Pixels against features in the bridge's linear start, as standard deviations.
BRIDGE_PIXEL_WEIGHT = 1.5


class AutoencoderTask(ReconstructionTask):
    """One stage on an autoencoder; `fresh` names the parts that get a linear start."""

    def __init__(self, vae: AutoencoderRPiAE, stage: AutoencoderStage, seed: int, fresh: tuple[str, ...] = ()):
        super().__init__()
        self.watched = "l1"  # the whole loss has adaptive weights, which jump
        self.stage, self.fresh = stage, fresh
        self.vae = vae
        for name in ("encoder", "bridge", "decoder"):
            part = getattr(vae, name)
            if part is not None:
                part.requires_grad_(name in stage.trains)
        self.pivot_replica = frozen_copy(vae.encoder) if stage.pivot else None
        self.perceptual = perceptual_distance(stage.perceptual_network) if stage.perceptual else None
        # Outside the module tree: it learns by itself, see `after_step`.
        self.opponent = Opponent(stage, seed) if stage.gan else None
        self.seed = seed
        self._open_pictures()
        # Buffers, so that a resumed run goes on with the same weight.
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("pivot_weight", torch.tensor(float(stage.pivot)))

    def _open_pictures(self) -> None:
        stage, seed = self.stage, self.seed
        if stage.data is None:
            pictures = PictureSettings(crop=stage.crop, filtered=stage.filtered, letterboxed=stage.letterboxed)
            self.dataset = ScenePictures(seed, TAG, stage.samples, pictures)
            self.held_out = ScenePictures(seed, HELD_OUT_TAG, VALIDATION_PICTURES, PictureSettings())
            return
        reader, size = Reader(stage.data, (seed, TAG), stage.batch_size), self.vae.config.image_size
        whole = copy.copy(reader)
        whole.data = stage.data.model_copy(update={"crop": "center", "flip": False})
        self.dataset = PictureFiles(reader, stage.samples, size)
        self.held_out = PictureFiles(whole, VALIDATION_PICTURES, size, held_out=True)

    def to(self, *args, **kwargs) -> "AutoencoderTask":
        if self.opponent is not None:
            self.opponent.to(*args, **kwargs)
        return super().to(*args, **kwargs)

    def start(self) -> None:
        if not self.fresh:
            return
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
        losses, base = self._losses(batch)
        total = base
        if self.pivot_replica is not None:
            if "pivot_weight_is_measured" not in batch:
                self._update_pivot_weight(base, losses["pivot"])
            losses["pivot_weight"] = self.pivot_weight.clone()
            total = total + losses["pivot_weight"] * losses["pivot"]
        if "gan" in losses:
            measured = batch.get("gan_weight")
            losses["gan_weight"] = self._gan_weight(base, losses["gan"]) if measured is None else measured
            total = total + self.stage.gan * losses["gan_weight"] * losses["gan"]
        return losses | {"loss": total}

    def _losses(self, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """All losses, and the weighted sum of those whose weights are constant."""
        stage, vae = self.stage, self.vae
        x = batch["image"].float() / 255
        features = vae.encode_features(x)
        losses: dict[str, Tensor] = {}
        rms = self._mean_square(features, batch).sqrt()
        given = self._noisy(features, stage.noise_tau * rms, batch["index"], ON_FEATURES)
        if vae.bridge is not None:
            posterior = vae.bridge.encode(given)
            latent = vae.normalise(self._latent(posterior, batch["index"]))
            latent = self._noisy(latent, stage.latent_noise_tau, batch["index"], ON_LATENT, power=2)
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
        if self._gan_is_due(batch):
            losses["gan"] = generator_loss(self.opponent.judge(reconstruction, batch["index"]))
        return losses, total

    def _first(self, part: dict[str, Tensor]) -> int:
        """Number of the first sample of the batch that this is a part of."""
        return int(part["index"].min()) // self.stage.batch_size * self.stage.batch_size

    def _gan_is_due(self, part: dict[str, Tensor]) -> bool:
        if self.opponent is None or not (self.training and torch.is_grad_enabled()):
            return False
        return self._first(part) >= self.stage.gan_from

    def _gan_weight(self, reconstruction: Tensor, gan: Tensor) -> Tensor:
        return gan_weight(reconstruction, gan, self.vae.decoder.head.weight)

    def after_step(self, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The discriminator's step, on reconstructions by the stepped weights."""
        first = self._first(parts[0])
        if self.opponent is None or not self.opponent.learns(first):
            return {}
        pictures = ((part["image"].float() / 255, part["index"]) for part in parts)
        return self.opponent.step(pictures, self.vae, first)

    def companions(self) -> list:
        return [] if self.opponent is None else [self.opponent]

    def _mean_square(self, features: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Of the whole batch's features, of which these may be a part."""
        if "mean_square" in batch:
            return batch["mean_square"]
        own = features.detach().float().square().mean()
        return mean_over_processes(own) if self.training and self.stage.noise_tau else own

    def measure(self, parts: list[dict[str, Tensor]]) -> None:
        if self.stage.noise_tau:
            with torch.no_grad():
                features = (self.vae.encode_features(part["image"].float() / 255) for part in parts)
                mean_square = torch.stack([self._mean_square(one, {}) for one in features]).mean()
            for part in parts:
                part["mean_square"] = mean_square
        if self.pivot_replica is not None:
            parameter = self.vae.encoder.adaptive_weight_parameter(self.stage.pivot_parameter)
            due = parts if self._weight_is_due() and int(self.steps) >= self.stage.pivot_constant_steps else []
            self._update_pivot_weight(*self._stand_ins(due, "pivot", parameter))
            for part in parts:
                part["pivot_weight_is_measured"] = True
        if self._gan_is_due(parts[0]):
            weight = self._gan_weight(*self._stand_ins(parts, "gan", self.vae.decoder.head.weight))
            for part in parts:
                part["gan_weight"] = weight

    def _stand_ins(self, parts: list[dict[str, Tensor]], other: str, parameter: torch.nn.Parameter) -> list[Tensor]:
        """Losses that have, at one parameter, the gradients of a whole batch's reconstruction loss and of another one,
        which are computed part by part."""
        sums = [torch.zeros_like(parameter) for _ in range(2)]
        for part in parts:
            losses, total = self._losses(part)
            for one, loss in zip(sums, (total, losses[other]), strict=True):
                one += torch.autograd.grad(loss, parameter, retain_graph=True)[0] / len(parts)
        return [(gradient * parameter).sum() for gradient in sums]

    def _latent(self, posterior: Posterior, index: Tensor) -> Tensor:
        """The mode, or in training a draw that belongs to the picture's number."""
        if self.stage.posterior == "mode" or not self.training:
            return posterior.mode()
        shape = posterior.mean.shape[1:]
        generators = self._generators(index, OF_POSTERIOR)
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        return posterior.sample(noise=noise.to(posterior.mean.dtype))

    def _generators(self, index: Tensor, purpose: int) -> Iterator[torch.Generator]:
        """One for each picture, by the run's seed, the picture's number and what is drawn."""
        first = purpose + self.seed * BETWEEN_RUNS
        return (torch.Generator().manual_seed((first + number) % 2**32) for number in index.tolist())

    def _noisy(self, values: Tensor, tau: float | Tensor, index: Tensor, purpose: int, power: int = 1) -> Tensor:
        """Features or latents with noise of a strength drawn per picture, tau * U(0, 1) ** power, which what follows
        learns to live with. The noise belongs to the seed and the picture's number, whatever batch or process it is
        in."""
        if not tau or not self.training:
            return values
        uniform, noise = [], []
        for generator in self._generators(index, purpose):
            uniform.append(torch.rand((), generator=generator) ** power)
            noise.append(torch.randn(values.shape[1:], generator=generator))
        uniform, noise = (torch.stack(drawn).to(values.device) for drawn in (uniform, noise))
        return noisy_features(values, tau, uniform, noise)

    def _update_pivot_weight(self, reconstruction: Tensor, pivot: Tensor) -> None:
        """The authors' balance: pivot * |grad reconstruction| / |grad pivot| at one encoder parameter."""
        if not (self.training and torch.is_grad_enabled()):
            return
        stage, step, due = self.stage, int(self.steps), self._weight_is_due()
        self.steps += 1
        if due:
            parameter = self.vae.encoder.adaptive_weight_parameter(stage.pivot_parameter)
            weight = pivot_weight(reconstruction, pivot, parameter, step, stage.pivot, stage.pivot_constant_steps)
            self.pivot_weight.copy_(weight)

    def _weight_is_due(self) -> bool:
        return self.stage.pivot_weighting == "adaptive" and int(self.steps) % self.stage.pivot_every == 0

    def export(self, folder: Path) -> None:
        if "bridge" in self.stage.trains and self.stage.semantic_channels:
            scenes = ScenePictures(self.seed, SEMANTIC_TAG, SEMANTIC_PICTURES, PictureSettings(labels=True))
            turn_to_meaning(self.vae, scenes, self.stage.semantic_channels, self.stage.semantic_gain)
        if self.vae.bridge is not None and self.stage.normalise_latents:
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
        own = self.dataset
        if self.stage.data is None:
            own = ScenePictures(self.seed, LATENT_TAG, LATENT_PICTURES, PictureSettings(filtered=0.2))
        pictures = collect_pictures(own, LATENT_PICTURES).to(self.vae.device)
        latents = self.vae.encode(pictures).latent_dist.mode()
        mean = latents.mean((0, 2, 3))
        scale = (latents - mean.view(1, -1, 1, 1)).square().mean().clamp_min(1e-12).rsqrt()
        self.vae.register_to_config(latents_mean=mean.tolist(), latents_scale=[float(scale)] * len(mean))
