"""Class-conditional diffusion on the tokenizer's latents: LightningDiT, flow matching, label dropout.

The authors' training (reference facts (a), class-conditional): velocity target, logit-normal times that are then
shifted, plain mean squared error.
"""

from pathlib import Path

import torch
from accelerate.utils import send_to_device
from einops import rearrange
from PIL import Image
from torch import Tensor

from rpiae import flow, images
from rpiae.autoencoder import AutoencoderRPiAE
from rpiae.class_conditional import ClassConditionalPipeline
from rpiae.lightning_dit import LightningDiT2DModel

from ..config import ClassConditionalStage
from ..data.classes import ClassSamples
from ..data.reader import Reader
from ..latents import LatentFolder
from ..runtime import compile_methods
from .task import Task

TAG = 40
VALIDATION_ITEMS = 64
SHEET_PICTURES = 8


class ClassConditionalTask(Task):
    def __init__(
        self, stage: ClassConditionalStage, vae: AutoencoderRPiAE, transformer: LightningDiT2DModel, seed: int
    ):
        super().__init__()
        self.stage = stage
        self.transformer = transformer
        self.transformer.requires_grad_(True)  # all of it: the authors' position table and frequencies train too
        # Frozen and outside the module tree: it is neither trained nor saved with the state.
        self.frozen = {"vae": vae.eval().requires_grad_(False)}
        wanted = (transformer.config.in_channels, *[transformer.config.sample_size] * 2)
        if vae.latent_shape != wanted:
            raise ValueError(
                f"models.class_transformer is for latents {wanted}, this tokenizer's are {vae.latent_shape}"
            )
        reader = Reader(stage.data, (seed, TAG), stage.batch_size)
        sizes = (vae.config.image_size, vae.latent_shape, transformer.config.num_classes)
        # First, since it checks that the data are class folders.
        self.held_out = ClassSamples(reader, VALIDATION_ITEMS, *sizes, held_out=True)
        self.latents = None if stage.latents is None else LatentFolder(stage.latents, reader, vae)
        self.dataset = ClassSamples(reader, stage.samples, *sizes, latents=self.latents)

    @property
    def vae(self) -> AutoencoderRPiAE:
        return self.frozen["vae"]

    def to(self, *args, **kwargs) -> "ClassConditionalTask":
        self.vae.to(*args, **kwargs)
        return super().to(*args, **kwargs)

    def prepare(self) -> None:
        if self.latents is not None:
            self.latents.write(self.stage.workers, self.stage.precision)

    def compile(self) -> None:
        compile_methods(self.vae.encoder, "forward")
        for block in self.transformer.blocks:
            compile_methods(block, "forward")

    @torch.no_grad()
    def encode(self, batch: dict[str, Tensor]) -> Tensor:
        """The data (B, C, h, w), float32 and on the transformer's scale."""
        if "latent" in batch:
            return self.vae.normalise(batch["latent"].float())
        return self.vae.normalise(self.vae.encode(batch["image"].float() / 255).latent_dist.mode().float())

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        stage = self.stage
        data, noise = self.encode(batch), batch["noise"]
        nothing = self.transformer.config.num_classes
        labels = torch.where(batch["drop"] < stage.drop_label, nothing, batch["label"])
        t = flow.logit_normal_time(batch["uniform"], stage.time_shift, stage.logit_mean, stage.logit_std)
        x_t = flow.interpolate(data, noise, t)
        predicted = self.transformer(x_t, t, labels).sample.float()
        return {"loss": (predicted - flow.velocity(data, noise)).square().mean()}

    def validate(self) -> dict[str, float]:
        """The loss on held-out pictures with their labels, always at the same noise and times."""
        batch = torch.utils.data.default_collate([self.held_out[i] for i in range(VALIDATION_ITEMS)])
        batch = send_to_device(batch, self.vae.device)
        batch["drop"] = torch.ones_like(batch["drop"])
        with torch.autocast(self.vae.device.type, torch.bfloat16, enabled=self.stage.precision == "bf16"):
            return {"held_out_loss": float(self(batch)["loss"])}

    def sheet(self) -> Image.Image:
        """Held-out pictures over pictures drawn for their classes."""
        items = [self.held_out[i] for i in range(SHEET_PICTURES)]
        pipe = ClassConditionalPipeline(vae=self.vae, transformer=self.transformer)
        pipe.set_progress_bar_config(disable=True)
        drawn = pipe(
            class_labels=torch.stack([item["label"] for item in items]),
            generator=[torch.Generator().manual_seed(i) for i in range(SHEET_PICTURES)],
            num_inference_steps=self.stage.preview_steps, time_shift=self.stage.time_shift, output_type="pt",
        ).images  # fmt: skip
        real = torch.stack([item["image"] for item in items]).float().to(drawn.device) / 255
        rows = torch.stack([real, drawn.clamp(0, 1)])
        return images.to_pil(rearrange(rows, "r k c h w -> c (r h) (k w)")[None])[0]

    def export(self, folder: Path) -> None:
        self.transformer.save_pretrained(folder)
