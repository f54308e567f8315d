"""Representation encoders: a picture in [0, 1] → a feature map (B, C, h, w).

Two kinds, chosen by config: `dinov2` is DINOv2 with registers (transformers), as released by the authors; `vit` is
a compact vision transformer with rotary positions (timm) that `train` teaches from nothing.
"""

import copy

import torch
from timm.models.eva import Eva
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from .layers import tokens_to_map

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class RepresentationEncoder(nn.Module):
    """What both kinds share: pixel normalisation, and training noise on the tokens is the trainer's business.

    Attributes:
        feature_channels: C of the feature map.
        downsampling: input pixels per feature map cell, as a picture at `image_size` sees it.
    """

    feature_channels: int
    downsampling: int

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    def adaptive_weight_parameter(self, which: str = "mlp") -> nn.Parameter:
        """The parameter of the last block whose gradients balance the pivot loss.

        Args:
            which: "mlp", the MLP's output weight, or "layer_scale", the second layer scale, which the authors' trainer
                took by mistake (reference facts (c) 1).
        """
        parameters = self._last_block_parameters()
        if which not in parameters:
            raise ValueError(f"a {type(self).__name__} has no parameter {which!r}; use one of {', '.join(parameters)}")
        return parameters[which]

    def _last_block_parameters(self) -> dict[str, nn.Parameter]:
        raise NotImplementedError(type(self).__name__)


class Dinov2Encoder(RepresentationEncoder):
    """DINOv2 with registers; class and register tokens are dropped, the final norm has no affine part.

    Pictures of any size are resized to a square by bicubic interpolation without antialiasing, as the authors do.

    Args:
        input_size: side of the square that the network sees, in pixels.
        output_grid: rows (= columns) of the feature map.
        image_size: side of the pictures that the tokenizer is made for.
        native_size: side that the position table is made for; positions are interpolated from it.
        model_config: arguments of `Dinov2WithRegistersConfig`.
    """

    def __init__(self, input_size: int, output_grid: int, image_size: int, native_size: int = 518, **model_config):
        super().__init__()
        self.input_size = input_size
        config = Dinov2WithRegistersConfig(image_size=native_size, **model_config)
        self.model = Dinov2WithRegistersModel(config)
        self.model.layernorm = nn.LayerNorm(
            config.hidden_size, eps=config.layer_norm_eps, elementwise_affine=False
        )
        self.skipped_tokens = 1 + config.num_register_tokens
        self.grid = (output_grid, output_grid)
        self.feature_channels = config.hidden_size
        self.downsampling = image_size // output_grid

    def forward(self, images: Tensor) -> Tensor:
        size = (self.input_size, self.input_size)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size=size, mode="bicubic")
        tokens = self.model(self.normalise(images)).last_hidden_state
        return tokens_to_map(tokens[:, self.skipped_tokens :], self.grid)

    def requires_grad_(self, requires_grad: bool = True) -> "Dinov2Encoder":
        super().requires_grad_(requires_grad)
        # In the released files, but nothing reads it (reference facts (c) 14): it never trains.
        self.model.embeddings.mask_token.requires_grad_(False)
        return self

    def _last_block_parameters(self) -> dict[str, nn.Parameter]:
        block = self.model.encoder.layer[-1]
        return {"mlp": block.mlp.fc2.weight, "layer_scale": block.layer_scale2.lambda1}


class CompactEncoder(RepresentationEncoder):
    """A small vision transformer, patch 16, with rotary positions, so that crops of any size can be encoded.

    Its last norm is left out: the pixel decoder needs each token's magnitude (how bright a flat patch is).
    """

    def __init__(self, hidden_size: int, num_layers: int, num_heads: int, patch_size: int = 16):
        super().__init__()
        self.model = Eva(
            patch_size=patch_size, embed_dim=hidden_size, depth=num_layers, num_heads=num_heads, num_classes=0,
            global_pool="", class_token=False, use_abs_pos_emb=False, use_rot_pos_emb=True,
            use_post_transformer_norm=False, dynamic_img_size=True,
        )  # fmt: skip
        self.feature_channels = hidden_size
        self.downsampling = patch_size

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-1] % self.downsampling or images.shape[-2] % self.downsampling:
            raise ValueError(
                f"height and width must be multiples of {self.downsampling}, "
                f"this picture is {images.shape[-2]} x {images.shape[-1]}"
            )
        grid = (images.shape[-2] // self.downsampling, images.shape[-1] // self.downsampling)
        return tokens_to_map(self.model.forward_features(self.normalise(images)), grid)

    def _last_block_parameters(self) -> dict[str, nn.Parameter]:
        return {"mlp": self.model.blocks[-1].mlp.fc2.weight}


KINDS = {"dinov2": Dinov2Encoder, "vit": CompactEncoder}


def build_encoder(config: dict, image_size: int) -> RepresentationEncoder:
    """The encoder that a config like {"kind": "vit", "hidden_size": 192, ...} describes."""
    settings = dict(config)
    kind = settings.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"encoder kind {kind!r} is not known; use one of {', '.join(KINDS)}")
    if kind == "dinov2":
        settings["image_size"] = image_size
    return KINDS[kind](**settings)


def frozen_copy(encoder: RepresentationEncoder) -> RepresentationEncoder:
    """The pivot replica: a copy that neither trains nor changes mode."""
    replica = copy.deepcopy(encoder).eval().requires_grad_(False)
    replica.train = lambda mode=True: replica
    return replica
