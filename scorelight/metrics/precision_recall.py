"""Precision and recall of samples."""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt

import numpy as np
import torch
from torch import Tensor

from scorelight.errors import ConfigurationError
from scorelight.metrics.base import SampleQualityMetric
from scorelight.metrics.rows import Rows, SelectedRows, blocks
from scorelight.metrics.statistics import FeatureSet, check_points, double, pair_device

__all__ = ["PrecisionRecall", "precision_recall"]

_ENTRIES = 2**20
"""Distances in memory at once: 8 MB."""


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
        x, y = real.rows("PrecisionRecall"), fake.rows("PrecisionRecall")
        part = torch.from_numpy(np.random.RandomState(self.seed).permutation(len(x))[: len(y)])
        precision, recall = precision_recall(SelectedRows(x, part) if len(x) > len(y) else x, y, self.k)
        return {"precision": precision, "recall": recall}


def precision_recall(real: Rows, fake: Rows, k: int = 3) -> tuple[float, float]:
    """Fraction of each set that is within the k-nearest-neighbour balls of the other.

    Distances are computed for 1024 by 1024 points at a time: memory does not depend on the number of points,
    but for a radius of each. Time is of order (N + M)² D.

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
    check_points(real, fake)
    device = pair_device(fake)
    return _covered(fake, real, k, device), _covered(real, fake, k, device)


def _covered(points: Rows, centres: Rows, k: int, device: torch.device) -> float:
    """Fraction of the points that are within the ball of some centre."""
    size = isqrt(_ENTRIES)
    radii = [_radii(part, centres, k, device) for part in blocks(centres, size)]
    inside = 0
    for part in blocks(points, size):
        near = [(d <= r).any(1) for d, r in zip(_distances(part, centres, device), radii, strict=True)]
        inside += int(torch.stack(near).any(0).sum())
    return inside / len(points)


def _radii(part: Tensor, centres: Rows, k: int, device: torch.device) -> Tensor:
    """Distance of each of some centres to its k-th nearest neighbour among all, itself not counted."""
    nearest = torch.empty(len(part), 0, dtype=torch.float64, device=device)
    for distances in _distances(part, centres, device):
        smallest = distances.topk(min(k + 1, distances.shape[1]), largest=False).values
        both = torch.cat([nearest, smallest], dim=1)
        nearest = both.topk(min(k + 1, both.shape[1]), largest=False).values
    return nearest[:, k]


def _distances(part: Tensor, centres: Rows, device: torch.device) -> Iterator[Tensor]:
    """Distances of some points to all centres, shape (n, m), m centres at a time."""
    x = double(part.to(device))
    for block in blocks(centres, isqrt(_ENTRIES)):
        yield torch.cdist(x, double(block.to(device)))
