"""Fixtures that several rooms share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def smoke_checkpoint(tmp_path_factory) -> Path:
    """A tiny, untrained but real checkpoint folder: every component of a pipeline, float16 on disk."""
    import torch

    from rpiae.autoencoder import AutoencoderRPiAE
    from rpiae.transformer import RPiAETransformer2DModel
    from train.config import load_config
    from train.publish import write_checkpoint

    folder = tmp_path_factory.mktemp("smoke") / "checkpoint"
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
