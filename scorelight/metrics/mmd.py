"""The maximum mean discrepancy."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import torch
from torch import Tensor

from scorelight.errors import ConfigurationError
from scorelight.metrics.base import SampleQualityMetric
from scorelight.metrics.rows import Rows, blocks
from scorelight.metrics.statistics import FeatureSet, check_points, double, pair_device

__all__ = ["MaximumMeanDiscrepancy", "maximum_mean_discrepancy", "median_distance"]

_ENTRIES = 2**22
"""Kernel values in memory at once: 32 MB."""


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
        x, y = real.rows("MaximumMeanDiscrepancy"), fake.rows("MaximumMeanDiscrepancy")
        unit = median_distance(x)
        return {"maximum_mean_discrepancy": maximum_mean_discrepancy(x, y, [unit * s for s in self.scales])}


def maximum_mean_discrepancy(real: Rows, fake: Rows, widths: Sequence[float]) -> float:
    """Unbiased estimate of E k(x, x') + E k(y, y') − 2 E k(x, y), k the mean of exp(−‖x − y‖²/(2h²)) over h.

    Memory does not depend on the number of points; time is of order (N + M)² D.

    Args:
        real: Shape (N, D).
        fake: Shape (M, D).
        widths: The h of each kernel.

    Raises:
        ConfigurationError: If a set has fewer than two points.
    """
    check_points(real, fake)
    n, m = len(real), len(fake)
    if min(n, m) < 2:
        raise ConfigurationError(f"MaximumMeanDiscrepancy: {min(n, m)} examples: at least 2")
    device = pair_device(fake)
    of_real = (_total(real, real, widths, device) - n) / (n * (n - 1))
    of_fake = (_total(fake, fake, widths, device) - m) / (m * (m - 1))
    return of_real + of_fake - 2 * _total(real, fake, widths, device) / (n * m)


def median_distance(x: Rows, most: int = 2000) -> float:
    """Median distance of two different ones of the first points of x, shape (N, D); 1 if it is 0."""
    return torch.pdist(double(x[:most])).median().item() or 1.0


def _total(x: Rows, y: Rows, widths: Sequence[float], device: torch.device) -> float:
    """Sum of the kernel over all pairs."""
    size, total = isqrt(_ENTRIES), torch.zeros((), dtype=torch.float64, device=device)
    for part in blocks(x, size):
        left = double(part.to(device))
        for block in blocks(y, size):
            total += _sum(left, double(block.to(device)), widths)
    return total.item()


def _sum(x: Tensor, y: Tensor, widths: Sequence[float]) -> Tensor:
    """Sum of the kernel over pairs; by direct differences, so that a point has distance 0 to itself."""
    squares = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    each = [(squares / (-2 * h * h)).exp().sum() for h in widths]
    return torch.stack(each).mean()
