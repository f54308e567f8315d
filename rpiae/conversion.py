"""From the authors' files to folders that `from_pretrained` reads."""

import shutil
from pathlib import Path
from uuid import uuid4

import torch
from diffusers import ModelMixin

from .autoencoder import AutoencoderRPiAE
from .class_conditional import ClassConditionalPipeline
from .lightning_dit import LightningDiT2DModel
from .official import RELEASED_TOKENIZER, TRANSFORMER, locate, read


def convert(
    source: str | Path,
    folder: str | Path,
    transformer: str | Path | None = None,
    encoder_num_heads: int = 12,
    decoder_num_heads: int = 16,
    num_heads: int = 16,
    bridge: bool = True,
    torch_dtype: torch.dtype = torch.float32,
) -> str:
    """Write an official file as config and safetensors; the folder is there whole or not at all.

    Args:
        source: a tokenizer or a LightningDiT; see `rpiae.official.locate`.
        folder: to make; it must not exist, or be empty.
        transformer: a LightningDiT that belongs to the tokenizer: both become one ClassConditionalPipeline folder.
        encoder_num_heads, decoder_num_heads, num_heads: of the tokenizer's encoder and decoder and of the LightningDiT.
        bridge: False takes a stage-1 tokenizer.

    Returns:
        The name of the class whose `from_pretrained` reads the folder.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{str(folder)!r} is there already; name a new folder")
    path = locate(source, RELEASED_TOKENIZER)
    model: ModelMixin | ClassConditionalPipeline
    if transformer is None and read(path).kind == TRANSFORMER:
        model = LightningDiT2DModel.from_official(path, num_heads, torch_dtype)
    else:
        heads = (encoder_num_heads, decoder_num_heads)
        model = AutoencoderRPiAE.from_official(path, *heads, bridge=bridge, torch_dtype=torch_dtype)
    if transformer is not None:
        dit = LightningDiT2DModel.from_official(transformer, num_heads, torch_dtype)
        model = ClassConditionalPipeline(vae=model, transformer=dit)
    part = folder.with_name(f".{folder.name[:40]}-{uuid4().hex}.part")
    try:
        model.save_pretrained(part)
        if folder.is_dir():
            folder.rmdir()
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return type(model).__name__
