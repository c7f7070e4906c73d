"""The maximum mean discrepancy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scorelight.errors import ConfigurationError
from scorelight.metrics.base import SampleQualityMetric
from scorelight.metrics.statistics import FeatureSet, double, points

__all__ = ["MaximumMeanDiscrepancy", "maximum_mean_discrepancy", "median_distance"]

_ENTRIES = 2**24
"""Kernel values in memory at once: 128 MB."""


class MaximumMeanDiscrepancy(SampleQualityMetric):
    """Unbiased MMD² under a mean of Gaussian kernels; for vector data (Gretton et al., 2012, eq. 3).

    The widths are the median distance of the first 2,000 real examples times `scales`, so that they do not
    depend on the samples. For perfect samples it is as often below 0 as above.

    Args:
        scales: Widths of the kernels in units of the median distance.
    """

    needs_features = True

    def __init__(self, scales: Sequence[float] = (0.25, 0.5, 1.0, 2.0)) -> None:
        if not scales or min(scales) <= 0:
            raise ConfigurationError(f"MaximumMeanDiscrepancy: scales={list(scales)}: one or more, above 0")
        self.scales = tuple(scales)

    def __call__(self, real: FeatureSet, fake: FeatureSet) -> dict[str, float]:
        """``maximum_mean_discrepancy``, squared."""
        x, y = real.bank("MaximumMeanDiscrepancy"), fake.bank("MaximumMeanDiscrepancy")
        unit = median_distance(x)
        return {"maximum_mean_discrepancy": maximum_mean_discrepancy(x, y, [unit * s for s in self.scales])}


def maximum_mean_discrepancy(real: Tensor, fake: Tensor, widths: Sequence[float]) -> float:
    """Unbiased estimate of E k(x, x') + E k(y, y') − 2 E k(x, y), k the mean of exp(−‖x − y‖²/(2h²)) over h.

    Args:
        real: Shape (N, D).
        fake: Shape (M, D).
        widths: The h of each kernel.

    Raises:
        ConfigurationError: If a set has fewer than two points.
    """
    x, y = points(real, fake)
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise ConfigurationError(f"MaximumMeanDiscrepancy: {min(n, m)} examples: at least 2")
    within = (_total(x, x, widths) - n) / (n * (n - 1)) + (_total(y, y, widths) - m) / (m * (m - 1))
    return within - 2 * _total(x, y, widths) / (n * m)


def median_distance(x: Tensor, most: int = 2000) -> float:
    """Median distance of two different ones of the first points of x, shape (N, D); 1 if it is 0."""
    return torch.pdist(double(x[:most])).median().item() or 1.0


def _total(x: Tensor, y: Tensor, widths: Sequence[float]) -> float:
    """Sum of the kernel over all pairs; by direct differences, so that a point has distance 0 to itself."""
    total = 0.0
    for part in torch.split(x, max(_ENTRIES // len(y), 1)):
        squares = torch.cdist(part, y, compute_mode="donot_use_mm_for_euclid_dist").square()
        total += sum((squares / (-2 * h * h)).exp().sum().item() for h in widths) / len(widths)
    return total
