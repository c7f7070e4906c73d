"""Weights λ of the noise levels, each with the space of the residual for which its paper states it."""

from __future__ import annotations

import math

from torch import Tensor
from typing_extensions import override

from scorelight.errors import ConfigurationError
from scorelight.objectives.base import Weighting
from scorelight.parameterizations import X0, Epsilon
from scorelight.processes.base import AnyLevel, Scalar

__all__ = [
    "EDMWeighting",
    "LikelihoodWeighting",
    "MinSNRWeighting",
    "SigmaSquaredWeighting",
    "SigmoidWeighting",
    "UniformWeighting",
]


class UniformWeighting(Weighting):
    """λ = 1."""

    @override
    def __call__(self, level: AnyLevel) -> Scalar:
        return 1.0


class SigmaSquaredWeighting(Weighting):
    """λ = σ² of the score's residual, which makes it L_simple (Song et al., 2021, sec. 3.3)."""

    @override
    def __call__(self, level: AnyLevel) -> Scalar:
        return level.sigma**2


class LikelihoodWeighting(Weighting):
    """λ = g² of the score's residual: ½ D (t_max − t_min) times this loss bounds the KL divergence.

    Song, Durkan, Murray & Ermon (2021), "Maximum likelihood training of score-based diffusion models",
    theorem 1. Its variance is lowest with `ImportanceTime`.
    """

    @override
    def __call__(self, level: AnyLevel) -> Scalar:
        return level.g2


class MinSNRWeighting(Weighting):
    """λ = min(SNR, γ) of x0's residual (Hang et al., 2023, eq. 8).

    Args:
        gamma: Their γ, positive.
    """

    space = X0()

    def __init__(self, gamma: float = 5.0) -> None:
        if not gamma > 0:
            raise ConfigurationError(f"gamma={gamma}: must be positive")
        self.gamma = gamma

    @override
    def __call__(self, level: AnyLevel) -> Scalar:
        snr = level.snr
        return snr.clamp(max=self.gamma) if isinstance(snr, Tensor) else min(snr, self.gamma)


class EDMWeighting(Weighting):
    """λ = (r² + s²)/(r s)² of x0's residual, r = σ/α, s the data's (Karras et al., 2022, table 1).

    It is the unweighted loss of `EDM`'s own output, and is used with `LogNormalTime`.

    Args:
        sigma_data: Standard deviation s of the data.
    """

    space = X0()

    def __init__(self, sigma_data: float = 0.5) -> None:
        if not sigma_data > 0:
            raise ConfigurationError(f"sigma_data={sigma_data}: must be positive")
        self.sigma_data = sigma_data

    def __call__(self, level: AnyLevel) -> Scalar:
        """SNR + 1/s²."""
        return level.snr + 1 / self.sigma_data**2


class SigmoidWeighting(Weighting):
    """λ = sigmoid(bias − log SNR) · g²/σ² of ε's residual (Kingma & Gao, 2023, sec. 5 and app. D).

    The factor g²/σ² = −d log SNR/dt makes it a weight of log SNR, the same for every process.

    Args:
        bias: log SNR at which the weight is ½, from −700 to 700; larger for more weight on little noise.
    """

    space = Epsilon()

    def __init__(self, bias: float = 2.0) -> None:
        if not abs(bias) <= 700:
            raise ConfigurationError(f"bias={bias}: a log SNR from -700 to 700 is needed")
        self.bias = bias

    def __call__(self, level: AnyLevel) -> Scalar:
        """sigmoid(bias − log SNR) · g²/σ², with sigmoid(bias − log SNR) = 1/(1 + SNR e^−bias)."""
        return level.g2 / level.sigma**2 / (1 + level.snr * math.exp(-self.bias))
