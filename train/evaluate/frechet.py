"""Fréchet distance, Inception Score, precision and recall of sets of features; the arithmetic is torch-fidelity's.

Conventions are those of ADM's evaluator (Dhariwal & Nichol 2021): the score over consecutive 5,000 pictures without
shuffling, precision and recall by the third nearest neighbour in the space of the Fréchet distance itself.
(torch-fidelity alone shuffles, takes ten parts whatever the number, and compares neighbours in VGG's features.)
"""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric
from torch_fidelity.metric_prc import calculate_precision_recall_part

SCORE_PART = 5000
NEIGHBOURS = 3


@dataclass(frozen=True)
class Statistics:
    """Mean (d,) and covariance (d, d) of a set's features, float64."""

    mean: np.ndarray
    covariance: np.ndarray


def statistics(pooled: Tensor) -> Statistics:
    """Of features (n, d). ValueError for fewer than two pictures."""
    if len(pooled) < 2:
        raise ValueError(f"a distribution takes at least 2 pictures, here is {len(pooled)}")
    found = fid_features_to_statistics(pooled.double())  # in double: float32 sums lose digits over 50,000 pictures
    return Statistics(found["mu"], found["sigma"])


def frechet_distance(one: Statistics, other: Statistics) -> float:
    if one.mean.shape != other.mean.shape:
        raise ValueError(f"features of {len(one.mean)} and {len(other.mean)} numbers are not of one feature space")
    sides = ({"mu": side.mean, "sigma": side.covariance} for side in (one, other))
    return fid_statistics_to_metric(*sides, verbose=False)[KEY_METRIC_FID]


def inception_score(logits: Tensor) -> tuple[float, float]:
    """Mean and standard deviation over parts of about 5,000 pictures in their order; logits (n, classes)."""
    parts = math.ceil(len(logits) / SCORE_PART)
    found = isc_features_to_metric(logits, splits=parts, shuffle=False)
    return found[KEY_METRIC_ISC_MEAN], found[KEY_METRIC_ISC_STD]


def precision_recall(generated: Tensor, real: Tensor, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Share of generated pictures among the real ones' neighbourhoods, and the other way round (Kynkäänniemi et al.
    2019); features (n, d) and (m, d)."""
    if min(len(generated), len(real)) <= neighbours:
        raise ValueError(
            f"precision and recall by {neighbours} neighbours take more than {neighbours} pictures on each side, "
            f"here are {len(generated)} and {len(real)}"
        )
    return calculate_precision_recall_part(generated, real, neighbours)
