"""The names of ImageNet's 1000 classes, as torchvision ships them (each is unique: "crane bird", "crane")."""

import functools


@functools.cache
def class_names() -> tuple[str, ...]:
    """Name by label, "tench" to "toilet tissue"."""
    from torchvision.models import ResNet50_Weights

    return tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])
