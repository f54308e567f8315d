"""RPiAE: a representation-pivoted autoencoder, and the diffusion transformers on its latents.

    from rpiae import RPiAEPipeline
    pipe = RPiAEPipeline.from_pretrained("assets/checkpoints/stickers-256")
    pipe(prompt="make the car blue", image=picture).images[0]
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "RPiAEPipeline": "pipeline",
    "RPiAEPipelineOutput": "pipeline",
    "AutoencoderRPiAE": "autoencoder",
    "RPiAETransformer2DModel": "transformer",
    "TextEncoder": "text",
    "LightningDiT2DModel": "lightning_dit",
    "ClassConditionalPipeline": "class_conditional",
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    """Names are imported on first use, so that `import rpiae.recipe` or `--help` does not load torch models."""
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
