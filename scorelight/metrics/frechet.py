"""The Fréchet distance."""

from __future__ import annotations

import torch
from torch import Tensor

from scorelight.errors import ConfigurationError
from scorelight.metrics.base import SampleQualityMetric
from scorelight.metrics.statistics import FeatureSet, pair

__all__ = ["FrechetDistance", "frechet_distance"]


class FrechetDistance(SampleQualityMetric):
    """Fréchet distance of the Gaussians with the moments of real and generated features.

    With `InceptionFeatures` it is the Fréchet Inception distance, FID (Heusel et al., 2017, eq. 6).
    """

    def __call__(self, real: FeatureSet, fake: FeatureSet) -> dict[str, float]:
        """``frechet_distance``, 0 or more."""
        return {"frechet_distance": frechet_distance(real.mean, real.cov, fake.mean, fake.cov)}


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """‖m₁ − m₂‖² + tr(S₁ + S₂ − 2 (S₁S₂)^½) (Dowson & Landau, 1982, eq. 4).

    The last trace is the sum of the singular values of L₁ᵀL₂ for any LᵢLᵢᵀ = Sᵢ. Unlike the eigenvalues of
    S₁S₂ they are never negative or complex, and they are exact for singular covariances.

    Args:
        mean1: Shape (D,).
        cov1: Shape (D, D); singular ones too, as of fewer examples than dimensions.
        mean2: Shape (D,).
        cov2: Shape (D, D).

    Returns:
        The distance, in squared units of the features; infinite if a moment is.
    """
    (m1, m2), (s1, s2) = pair(mean1, mean2), pair(cov1, cov2)
    if m1.shape != m2.shape:
        raise ConfigurationError(f"features of {len(m1)} and of {len(m2)} dimensions cannot be compared")
    if not all(x.isfinite().all() for x in (m1, s1, m2, s2)):
        return float("inf")
    cross = _nuclear_norm(_factor(s1).T @ _factor(s2))
    return max(((m1 - m2).square().sum() + s1.trace() + s2.trace() - 2 * cross).item(), 0.0)


def _factor(cov: Tensor) -> Tensor:
    """An L, shape (D, R), with LLᵀ = cov: Cholesky's or, where that would lose precision, by eigenvalues.

    Eigenvalues that are 0 within rounding are set to 0: their square roots would be far above rounding.
    """
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(cov)
    pivots = factor.diagonal().square()
    if not failed and pivots.min() > 1e-10 * pivots.max():
        return factor
    values, vectors = torch.linalg.eigh(cov)
    present = values > values.abs().max() * len(cov) * torch.finfo(cov.dtype).eps
    factor = vectors[:, present] * values[present].sqrt()
    return factor


def _nuclear_norm(m: Tensor) -> Tensor:
    """Sum of the singular values; by eigenvalues, in half the time, where they are precise enough."""
    if m.numel():
        squares: Tensor = torch.linalg.eigvalsh(m.T @ m if m.shape[0] > m.shape[1] else m @ m.T)
        if squares[0] > 1e-12 * squares[-1]:
            return squares.sqrt().sum()
    values: Tensor = torch.linalg.svdvals(m)
    return values.sum()
