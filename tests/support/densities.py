"""Densities of data with closed forms under every process."""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scorelight import GaussianMixture


@functools.cache
def mixture(dim: int) -> GaussianMixture:
    """Three components that overlap, with full covariances."""
    g = torch.Generator().manual_seed(0)
    means, root = 0.8 * torch.randn(3, dim, generator=g), torch.randn(3, dim, dim, generator=g)
    covariances = 0.2 * root @ root.mT / dim + 0.15 * torch.eye(dim)
    return GaussianMixture(torch.tensor([0.2, 0.3, 0.5]), means, covariances)


def gaussian(shape: Sequence[int], variance: Tensor | float, mean: float = 0.0) -> GaussianMixture:
    """A normal distribution with one mean and a variance, or a variance for each dimension."""
    size = math.prod(shape)
    variance = torch.as_tensor(variance, dtype=torch.float64).expand(size)
    return GaussianMixture(torch.ones(1), torch.full((1, *shape), mean), variance.diag()[None])


def classes() -> GaussianMixture:
    """Two classes of two components each."""
    means = torch.tensor([[-2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    weights, variances = torch.tensor([1.0, 2.0, 1.0, 3.0]), torch.tensor([0.1, 0.2, 0.15, 0.3])
    return GaussianMixture(weights, means, variances, torch.tensor([0, 1, 0, 1]))
