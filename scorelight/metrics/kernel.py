"""The kernel distance, KID."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from scorelight.errors import ConfigurationError
from scorelight.metrics.base import SampleQualityMetric
from scorelight.metrics.rows import Rows
from scorelight.metrics.statistics import FeatureSet, check_points, pair

__all__ = ["KernelDistance", "kernel_distance"]


class KernelDistance(SampleQualityMetric):
    """Squared maximum mean discrepancy under a polynomial kernel, KID (Bińkowski et al., 2018, eq. 4).

    Unlike the Fréchet distance it is unbiased: its expectation does not depend on the number of samples, and
    for perfect samples it is as often below 0 as above.

    Args:
        num_subsets: Number of random subsets of which it is the mean.
        subset_size: Examples in a subset.
        degree: Degree of the kernel.
        seed: Seed of the subsets; torch-fidelity's is 2020.
    """

    needs_features = True

    def __init__(
        self, num_subsets: int = 100, subset_size: int = 1000, degree: int = 3, seed: int = 2020
    ) -> None:
        if num_subsets < 1 or subset_size < 2 or degree < 1:
            raise ConfigurationError(
                f"KernelDistance: num_subsets={num_subsets}, subset_size={subset_size}, degree={degree}: "
                "at least 1, 2 and 1"
            )
        self.num_subsets = num_subsets
        self.subset_size = self.min_samples = subset_size
        self.degree = degree
        self.seed = seed

    def __call__(self, real: FeatureSet, fake: FeatureSet) -> dict[str, float]:
        """``kernel_distance``, and ``kernel_distance_std``, its standard deviation over the subsets."""
        rows = real.rows("KernelDistance"), fake.rows("KernelDistance")
        mean, std = kernel_distance(*rows, self.num_subsets, self.subset_size, self.degree, self.seed)
        return {"kernel_distance": mean, "kernel_distance_std": std}


def kernel_distance(
    real: Rows,
    fake: Rows,
    num_subsets: int = 100,
    subset_size: int = 1000,
    degree: int = 3,
    seed: int = 2020,
) -> tuple[float, float]:
    """Unbiased MMD² under k(x, y) = (xᵀy/D + 1)^degree, over random subsets (Gretton et al., 2012, eq. 3).

    The subsets are those of torch-fidelity, with the samples as its first input and the real ones as second.
    In memory are one subset of both, and n² kernel values for subsets of size n; time is of order n² D for
    each subset.

    Args:
        real: Features of shape (N, D).
        fake: Features of shape (M, D).
        num_subsets: Number of subsets, each without repetition.
        subset_size: Examples in a subset.
        degree: Degree of the kernel.
        seed: Seed of the subsets.

    Returns:
        Mean and standard deviation over the subsets.

    Raises:
        ConfigurationError: If there are fewer examples than a subset has.
    """
    if (num := min(len(real), len(fake))) < subset_size:
        raise ConfigurationError(
            f"KernelDistance: subset_size={subset_size}, and there are only {num} examples: give more "
            f"examples, or subset_size={num} at most"
        )
    check_points(real, fake)
    random = np.random.RandomState(seed)
    values = []
    for _ in range(num_subsets):
        x, y = (_subset(features, subset_size, random) for features in (fake, real))
        values.append(_mmd2(*pair(y, x), degree))
    return float(np.mean(values)), float(np.std(values))


def _subset(features: Rows, size: int, random: np.random.RandomState) -> Tensor:
    return features[torch.from_numpy(random.choice(len(features), size, replace=False))]


def _mmd2(x: Tensor, y: Tensor, degree: int) -> float:
    """Σ_{i≠j} k(xᵢ, xⱼ)/(m(m−1)) + the same of y − 2 mean k(x, y)."""
    m = len(x)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** degree

    def off_diagonal(k: Tensor) -> Tensor:
        return (k.sum() - k.trace()) / (m * (m - 1))

    return (off_diagonal(kernel(x, x)) + off_diagonal(kernel(y, y)) - 2 * kernel(x, y).mean()).item()
