"""Precision and recall of samples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from scorelight.errors import ConfigurationError
from scorelight.metrics.base import SampleQualityMetric
from scorelight.metrics.statistics import FeatureSet, points

__all__ = ["PrecisionRecall", "precision_recall"]

_ENTRIES = 2**24
"""Distances in memory at once: 128 MB."""


class PrecisionRecall(SampleQualityMetric):
    """Fraction of the samples that are near real examples, and of real examples that are near samples.

    Precision measures quality, recall variety (Kynkäänniemi et al., 2019, eq. 1 and 2). Both depend on the
    number of examples, which should be equal in all comparisons. As in the paper there are as many real
    examples as samples: a random subset, if there are more.

    Args:
        k: The radius of the ball around each example is the distance to its k-th nearest neighbour.
        seed: Seed of the subset of the real examples.
    """

    needs_features = True

    def __init__(self, k: int = 3, seed: int = 2020) -> None:
        if k < 1:
            raise ConfigurationError(f"PrecisionRecall: k={k}: at least 1")
        self.k = k
        self.min_samples = k + 1
        self.seed = seed

    def __call__(self, real: FeatureSet, fake: FeatureSet) -> dict[str, float]:
        """``precision`` and ``recall``, 0 to 1."""
        x, y = real.bank("PrecisionRecall"), fake.bank("PrecisionRecall")
        part = torch.from_numpy(np.random.RandomState(self.seed).permutation(len(x))[: len(y)])
        precision, recall = precision_recall(x[part.to(x.device)] if len(x) > len(y) else x, y, self.k)
        return {"precision": precision, "recall": recall}


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Fraction of each set that is within the k-nearest-neighbour balls of the other.

    Args:
        real: Features of shape (N, D).
        fake: Features of shape (M, D).
        k: Number of neighbours; an example is not its own neighbour.

    Returns:
        Precision and recall.

    Raises:
        ConfigurationError: If an example has fewer than k neighbours.
    """
    if (num := min(len(real), len(fake))) <= k:
        raise ConfigurationError(
            f"PrecisionRecall: k={k}, and there are only {num} examples: give more examples, or a smaller k"
        )
    x, y = points(real, fake)
    return _covered(y, x, k), _covered(x, y, k)


def _covered(points: Tensor, centres: Tensor, k: int) -> float:
    """Fraction of the points that are within the ball of some centre."""
    radii = torch.cat([d.kthvalue(k + 1).values for d in _distances(centres, centres)])
    inside = [(d <= radii).any(1) for d in _distances(points, centres)]
    return torch.cat(inside).double().mean().item()


def _distances(points: Tensor, centres: Tensor) -> Iterator[Tensor]:
    """Distances of shape (n, M), n points at a time."""
    for part in torch.split(points, max(_ENTRIES // len(centres), 1)):
        yield torch.cdist(part, centres)
