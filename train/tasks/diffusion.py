"""Text-to-image and instruction editing on the tokenizer's latents, trained jointly from the start.

Every context (text, source or none) serves several noise draws: it does not depend on the time, so its tokens are
computed once for all of them, in training as in sampling.
"""

from pathlib import Path

import torch
from accelerate.utils import send_to_device
from einops import rearrange, repeat
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from rpiae import flow, images
from rpiae.autoencoder import AutoencoderRPiAE
from rpiae.layers import map_to_tokens, unpatchify
from rpiae.pipeline import RPiAEPipeline, make_scheduler
from rpiae.text import TextEncoder
from rpiae.transformer import RPiAETransformer2DModel

from ..config import DiffusionStage, TrainingConfig
from ..data.examples import Examples
from ..data.pairs import ScenePairs
from ..data.pictures import IGNORE, PHRASES
from ..data.reader import Reader
from ..dense_heads import DenseHeads
from ..runtime import compile_methods
from .task import Task

TAG, HELD_OUT_TAG = 30, 31
VALIDATION_ITEMS = 16
SHEET_ITEMS = 6
READOUT_CHANNELS = 128
# How much each reader counts in the readout: the noun most.
READERS = {"phrase": 1.0, "color": 0.5, "style": 0.2, "size": 0.2, "offset": 2.0}
# Of 255: by as much photos differ where nobody edited them, after they were saved as JPEG. Scenes are exact.
PHOTO_NOISE = 16


class Readout(nn.Module):
    """Reads what each latent cell shows from the transformer's tokens of p x p cells. Training needs it, drawing does
    not: it is saved with the state and left out of the checkpoint."""

    def __init__(self, transformer: RPiAETransformer2DModel, text_encoder: TextEncoder):
        super().__init__()
        self.grid, self.patch_size = transformer.grid, transformer.config.patch_size
        self.to_cells = nn.Linear(transformer.config.hidden_size, READOUT_CHANNELS * self.patch_size**2)
        self.heads = DenseHeads(READOUT_CHANNELS, text_encoder.pooled(list(PHRASES)))

    def forward(self, tokens: Tensor, labels: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tokens (B, n, d) and labels (B, rows, columns) → the losses of `DenseHeads`."""
        cells = unpatchify(self.to_cells(tokens), self.grid, self.patch_size)
        return self.heads.losses(map_to_tokens(cells).flatten(0, 1), labels)


def _sources_and_targets(pictures: Tensor, batch: dict) -> tuple[Tensor, Tensor, Tensor]:
    """Of pictures or latents (B, P, c, h, w): each sample's source (any, where it has none) and target, both
    (SB, c, h, w), and which samples have a source (SB,)."""
    source, target = batch["source"].T, batch["target"].T
    rows = torch.arange(len(pictures), device=pictures.device)
    sources = pictures[rows, source.clamp_min(0)].flatten(0, 1)
    return sources, pictures[rows, target].flatten(0, 1), source.flatten() >= 0


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """The mean of (samples, h, w) where samples, or cells, are asked for; of nothing, 0. No index that a GPU would be
    waited for."""
    where = where.view(*where.shape, *[1] * (values.ndim - where.ndim)).expand_as(values)
    return values.where(where, 0.0).sum() / where.sum().clamp_min(1)


class DiffusionTask(Task):
    def __init__(
        self,
        config: TrainingConfig,
        stage: DiffusionStage,
        vae: AutoencoderRPiAE,
        transformer: RPiAETransformer2DModel,
    ):
        super().__init__()
        self.config, self.stage = config, stage
        self.transformer = transformer
        text_encoder = TextEncoder(**config.models.text_encoder)
        # Frozen and outside the module tree: they are neither trained nor saved with the state.
        self.frozen = {"vae": vae.eval().requires_grad_(False), "text_encoder": text_encoder}
        if stage.data is None:
            shares = {
                "common": stage.common_nouns,
                "common_share": stage.common_share,
                "common_words": stage.common_words,
                "sampling": stage.scene_sampling,
                "edit_weights": stage.edit_weights,
            }
            self.dataset = ScenePairs(config.seed, TAG, stage.samples, vae.latent_shape, stage.draws, **shares)
            self.held_out = ScenePairs(config.seed, HELD_OUT_TAG, VALIDATION_ITEMS, vae.latent_shape, 4)
        else:
            reader, size = Reader(stage.data, (config.seed, TAG), stage.batch_size), config.models.image_size
            self.dataset = Examples(reader, stage.samples, size, vae.latent_shape, stage.draws)
            self.held_out = Examples(reader, VALIDATION_ITEMS, size, vae.latent_shape, 4, held_out=True)
        self.readout = Readout(transformer, text_encoder) if stage.readout else None
        if stage.change and not transformer.config.head_change_parts:
            raise ValueError("change is for transformers that tell it: set models.transformer.head_change_parts")

    @property
    def vae(self) -> AutoencoderRPiAE:
        return self.frozen["vae"]

    @property
    def text_encoder(self) -> TextEncoder:
        return self.frozen["text_encoder"]

    def to(self, *args, **kwargs) -> "DiffusionTask":
        for model in self.frozen.values():
            model.to(*args, **kwargs)
        return super().to(*args, **kwargs)

    def compile(self) -> None:
        compile_methods(self.vae.encoder, "forward")
        compile_methods(self.vae.bridge, "encode")
        for block in self.transformer.blocks:
            compile_methods(block, "context", "target")
        if self.transformer.head is not None:
            compile_methods(self.transformer.head, "forward")
        if self.readout is not None:
            compile_methods(self.readout, "forward")

    @torch.no_grad()
    def encode(self, batch: dict) -> tuple[Tensor, Tensor, Tensor, list[str]]:
        """A batch of B items with P pictures and S samples each → sources and data (SB, c, h, w), which rows have a
        source (SB,), and SB texts."""
        pictures = rearrange(batch["images"], "b p c h w -> (p b) c h w").float() / 255
        latents = self.vae.normalise(self.vae.encode(pictures).latent_dist.mode().float())
        latents = rearrange(latents, "(p b) c h w -> b p c h w", b=len(batch["images"]))
        sources, data, editing = _sources_and_targets(latents, batch)
        sources = torch.where(editing[:, None, None, None], sources, 0.0)
        texts = [text for column in batch["texts"] for text in column]
        return sources, data, editing, texts

    def counts(self, part: dict) -> dict[str, Tensor]:
        editing = (part["source"] >= 0).sum()
        counts = {"edit": editing, "caption": part["source"].numel() - editing}
        if self.readout is not None:
            shown = (self._labels(part["labels"], 1)["color"] != IGNORE).sum()
            counts |= dict.fromkeys(("color", "style", "size", "offset"), shown)
        return counts

    def forward(self, batch: dict) -> dict[str, Tensor]:
        stage = self.stage
        source, data, editing, texts = self.encode(batch)
        drop = rearrange(batch["drop"], "b samples -> (samples b)")
        # An edit may lose its text or text and source, never the source alone; a caption may lose its text.
        has_source = editing & (drop >= stage.drop_both)
        lost = torch.where(editing, stage.drop_both + stage.drop_text, stage.drop_text)
        text = self.text_encoder(texts).dropped(drop < lost)
        noise = rearrange(batch["noise"], "b samples k c h w -> (samples b k) c h w")
        uniform = rearrange(batch["uniform"], "b samples k -> (samples b k)")
        t = flow.logit_normal_time(uniform, stage.time_shift, stage.logit_mean, stage.logit_std)
        repeated = repeat(data, "b c h w -> (b k) c h w", k=noise.shape[0] // len(data))
        x_t = flow.interpolate(repeated, noise, t)
        after = stage.readout_layer if self.readout else None
        given = {"text": text, "source": source, "has_source": has_source}
        predicted = self.transformer(x_t, t, **given, features_after=after)
        error = (predicted.sample.float() - flow.velocity(repeated, noise)).square()
        error = error.unflatten(0, (len(data), -1)).mean((1, 2))  # over draws and channels: (samples, h, w)
        differs = self._differs(batch)
        changed = self._changed_tokens(differs)
        weighted = error * (1 + (stage.changed_weight - 1) * changed.float())
        losses = {"loss": weighted.mean(), "caption": _mean(error, ~editing)}
        if batch["images"].shape[1] > 1:
            losses |= {"edit": _mean(error, editing), "changed": _mean(error, changed)}
        if stage.change:
            losses["change"] = self._change_loss(predicted.changes, differs, editing)
            losses["loss"] = losses["loss"] + stage.change * losses["change"]
        if self.readout:
            labels = self._labels(batch["labels"], noise.shape[0] // len(data))
            found = self.weighed(self.readout(predicted.features, labels), batch)
            losses["loss"] = losses["loss"] + stage.readout * sum(READERS[name] * found[name] for name in READERS)
            losses |= {"read_phrase": found["phrase"], "read_color": found["color"], "read_offset": found["offset"]}
        return self.weighed(losses, batch)

    @staticmethod
    def _labels(labels: dict[str, Tensor], draws: int) -> dict[str, Tensor]:
        """Labels (B, three pictures, ...) → (4B * draws, ...), those of the data of `encode`."""
        ordered = {}
        for name, label in labels.items():
            source, first, second = label.unbind(1)
            ordered[name] = torch.cat([first, second, source, first]).repeat_interleave(draws, dim=0)
        return ordered

    def _differs(self, batch: dict) -> Tensor:
        """Where an edit changes the picture, (samples, 1, H, W) float, 0 or 1; nowhere for captions.

        Asked of the pixels: encoder and bridge attend to everything, so one changed patch moves every latent a little.
        """
        before, after, editing = _sources_and_targets(batch["images"], batch)
        noise = 0 if self.stage.data is None else PHOTO_NOISE
        apart = torch.maximum(before, after) - torch.minimum(before, after)  # of bytes, without widening them
        differs = (apart > noise).any(1, keepdim=True)
        return (differs & editing[:, None, None, None]).float()

    @staticmethod
    def _change_loss(logits: Tensor, differs: Tensor, editing: Tensor) -> Tensor:
        """Of edits, averaged over all samples: logits (samples * draws, 1, m, m) against the parts that change."""
        parts = F.adaptive_max_pool2d(differs, logits.shape[-2:])
        draws = len(logits) // len(parts)
        error = F.binary_cross_entropy_with_logits(
            logits.float(), parts.repeat_interleave(draws, dim=0), reduction="none"
        )
        return (error.mean((1, 2, 3)) * editing.repeat_interleave(draws)).mean()

    def _changed_tokens(self, differs: Tensor) -> Tensor:
        """The same for cells (samples, h, w) bool, whole tokens at a time."""
        tokens = F.adaptive_max_pool2d(differs, self.transformer.grid)
        return F.interpolate(tokens, scale_factor=self.transformer.config.patch_size)[:, 0] > 0

    def validate(self) -> dict[str, float]:
        batch = torch.utils.data.default_collate([self.held_out[i] for i in range(VALIDATION_ITEMS)])
        batch = send_to_device(batch, self.vae.device)
        batch["drop"] = torch.ones_like(batch["drop"])
        with torch.autocast(self.vae.device.type, torch.bfloat16, enabled=self.stage.precision == "bf16"):
            return {f"held_out_{name}": float(value) for name, value in self(batch).items()}

    def pipeline(self) -> RPiAEPipeline:
        """A pipeline around the models as they are now."""
        sampling = self.config.sampling
        return RPiAEPipeline(
            vae=self.vae, transformer=self.transformer, text_encoder=self.text_encoder,
            scheduler=make_scheduler(sampling.time_shift),
            defaults=sampling.model_dump(exclude={"time_shift"}),
        )  # fmt: skip

    def sheet(self) -> Image.Image:
        """Rows of picture to edit (white for a caption), result as it should be and as drawn, at the config's own
        sampling settings; of scenes an edit and a caption side by side."""
        items = [self.held_out[i] for i in range(SHEET_ITEMS)]
        columns = [self._drawn(items, sample) for sample in range(0, len(items[0]["texts"]), 2)]
        rows = torch.cat(columns, dim=1).clamp(0, 1)
        return images.to_pil(rearrange(rows, "b k c h w -> c (b h) (k w)")[None])[0]

    def _drawn(self, items: list[dict], sample: int) -> Tensor:
        """Source, target and drawn result (B, 3, 3, H, W) of one sample of each item."""
        pipe = self.pipeline()
        pipe.set_progress_bar_config(disable=True)
        pictures = torch.stack([item["images"] for item in items]).float() / 255
        which = torch.stack([torch.stack([item["source"][sample], item["target"][sample]]) for item in items])
        rows = torch.ones(len(items), 3, *pictures.shape[2:])
        rows[:, 1] = pictures[torch.arange(len(items)), which[:, 1]]
        editing = which[:, 0] >= 0
        rows[editing, 0] = pictures[editing, which[editing, 0]]
        sources = images.to_pil(rows[:, 0])
        for edits in (True, False):
            numbers = [i for i in range(len(items)) if bool(editing[i]) == edits]
            if not numbers:
                continue
            given = {"image": [sources[i] for i in numbers], "preserve_unchanged": False} if edits else {}
            drawn = pipe(
                prompt=[self._fitting(items[i]["texts"][sample]) for i in numbers],
                generator=[torch.Generator().manual_seed(i) for i in numbers], output_type="pt", **given,
            ).images  # fmt: skip
            rows[numbers, 2] = drawn.float().cpu()
        return rows

    def _fitting(self, text: str) -> str:
        """As much of a text as the text encoder has room for: the pipeline refuses longer ones, training cuts."""
        while self.text_encoder.count_tokens(text) > self.text_encoder.config.max_tokens:
            text = text[: int(0.95 * len(text))]
        return text

    def export(self, folder: Path) -> None:
        self.transformer.save_pretrained(folder)
