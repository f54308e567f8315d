"""Linear probes: what a linear layer can read from frozen features.

Three questions to features or latents (B, C, h, w): which noun does a patch show, in which colour, and which of the
nine places of the picture are occupied. Linear layers fitted by logistic regression, judged on other scenes.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import default_collate

from ..data.pictures import IGNORE, NOUNS, PictureSettings, ScenePictures

TAG, HELD_OUT_TAG = 40, 41
FIT_PICTURES, HELD_OUT_PICTURES = 768, 256
PLACES = 3
BATCH = 32


def probe(
    encode: Callable[[Tensor], Tensor], seed: int = 0, fit: int = FIT_PICTURES, held_out: int = HELD_OUT_PICTURES
) -> dict[str, float]:
    """Held-out accuracy (0 to 1) of the three readers on what `encode` gives for pictures (B, 3, 256, 256): fitted on
    `fit` pictures, judged on `held_out` others."""
    seen = _collect(encode, ScenePictures(seed, TAG, fit, PictureSettings(labels=True)))
    new = _collect(encode, ScenePictures(seed, HELD_OUT_TAG, held_out, PictureSettings(labels=True)))
    return {
        "nouns": _classify(seen["tokens"], seen["noun"], new["tokens"], new["noun"]),
        "colors": _classify(seen["tokens"], seen["color"], new["tokens"], new["color"]),
        "places": _occupied(seen["pooled"], seen["occupied"], new["pooled"], new["occupied"]),
    }


@torch.no_grad()
def _collect(encode: Callable[[Tensor], Tensor], pictures: ScenePictures) -> dict[str, Tensor]:
    """Token features that show an object, with noun and colour; pooled maps with the places that are occupied."""
    parts: dict[str, list[Tensor]] = {name: [] for name in ("tokens", "noun", "color", "pooled", "occupied")}
    for start in range(0, len(pictures), BATCH):
        batch = default_collate([pictures[i] for i in range(start, min(start + BATCH, len(pictures)))])
        features = encode(batch["image"].float() / 255).float()
        shown = batch["color"] != IGNORE
        parts["tokens"].append(features.permute(0, 2, 3, 1)[shown])
        parts["noun"].append(batch["phrase"][shown])
        parts["color"].append(batch["color"][shown])
        parts["pooled"].append(F.adaptive_avg_pool2d(features, PLACES).flatten(1))
        parts["occupied"].append((F.adaptive_avg_pool2d(shown.float(), PLACES) > 0.25).flatten(1))
    return {name: torch.cat(values) for name, values in parts.items()}


def _classify(x: Tensor, y: Tensor, held_out_x: Tensor, held_out_y: Tensor) -> float:
    assert int(y.max()) < len(NOUNS) + 1
    layer = _fit(x, int(max(y.max(), held_out_y.max())) + 1, lambda logits: F.cross_entropy(logits, y))
    return (layer(held_out_x).argmax(-1) == held_out_y).float().mean().item()


def _occupied(x: Tensor, y: Tensor, held_out_x: Tensor, held_out_y: Tensor) -> float:
    wanted = y.float()
    layer = _fit(x, y.shape[1], lambda logits: F.binary_cross_entropy_with_logits(logits, wanted))
    return ((layer(held_out_x) > 0) == held_out_y).float().mean().item()


def _fit(x: Tensor, classes: int, loss: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Logistic regression on standardised inputs, with a little weight decay."""
    mean, deviation = x.mean(0), x.std(0).clamp_min(1e-6)
    layer = nn.Linear(x.shape[1], classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=60, line_search_fn="strong_wolfe")
    inputs = (x - mean) / deviation

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = loss(layer(inputs)) + 1e-4 * layer.weight.square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(closure)
    return lambda other: layer((other - mean) / deviation).detach()
