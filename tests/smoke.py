"""The smallest whole checkpoint: what tests and the load benchmark work on."""

from __future__ import annotations

from pathlib import Path


def write_smoke(folder: Path) -> Path:
    """Writes a tiny, untrained but real checkpoint: every component of a pipeline, float16 on disk."""
    import torch

    from rpiae.autoencoder import AutoencoderRPiAE
    from rpiae.transformer import RPiAETransformer2DModel
    from train.config import load_config
    from train.publish import write_checkpoint

    config = load_config("smoke", [f"checkpoint={folder}"])
    models = config.models
    torch.manual_seed(0)
    vae = AutoencoderRPiAE(models.encoder, models.decoder, models.bridge, models.image_size)
    transformer = RPiAETransformer2DModel(**models.transformer)
    # Untrained blocks are the identity and an edit would change nothing: give every part something to do.
    for parameter in transformer.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    write_checkpoint(config, vae, transformer, {})
    return folder
