"""Weights of the noise levels."""

from __future__ import annotations

from scorelight.objectives.base import Weighting
from scorelight.processes.base import NoiseLevel, Scalar

__all__ = ["SigmaSquaredWeighting", "UniformWeighting"]


class UniformWeighting(Weighting):
    """λ = 1."""

    def __call__(self, level: NoiseLevel) -> Scalar:
        """1."""
        return 1.0


class SigmaSquaredWeighting(Weighting):
    """λ = σ², which makes the score loss equal to L_simple (Song et al., 2021, sec. 3.3)."""

    def __call__(self, level: NoiseLevel) -> Scalar:
        """σ²."""
        return level.sigma**2
