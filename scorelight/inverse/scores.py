"""Approximations of ∇log p(y | x_t), in which p(x0 | x_t) is a Gaussian around x̂0 with some covariance C.

Then p(y | x_t) = N(A x̂0, A C Aᵀ + σ_y² I) and, C held fixed,

    ∇log p(y | x_t) = Jᵀ Aᵀ (A C Aᵀ + σ_y² I)⁻¹ (y − A x̂0),   J = ∂x̂0/∂x_t.

The true covariance is C = (σ²/α) J (Efron, 2011, Tweedie's second formula): CAᵀ v is a product with J.
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from scorelight.errors import ConfigurationError
from scorelight.inverse.base import PosteriorScore, VectorJacobian
from scorelight.inverse.conjugate_gradients import conjugate_gradients
from scorelight.inverse.measurement import Measurement
from scorelight.processes.base import AnyLevel
from scorelight.samplers.base import Sampler

__all__ = ["MMPS", "TMPD", "PiGDM"]


class PiGDM(PosteriorScore):
    """C = r² I with r² = σ² v/(σ² + α² v) (Song, Vahdat, Mardani & Kautz, 2023, eq. 7; ΠGDM).

    It is exact for data N(m, v I). The paper has v = 1.

    Args:
        measurement: A and σ_y.
        sampler: Samples by the score (default: `DDIM` of 100 steps with η = 1).
        variance: v, of the data.
    """

    def __init__(
        self, measurement: Measurement, sampler: Sampler | None = None, variance: float = 1.0
    ) -> None:
        super().__init__(measurement, sampler)
        if not variance > 0:
            raise ConfigurationError(f"PiGDM: variance={variance}: must be positive")
        self.variance = variance

    @override
    def likelihood_score(self, x0: Tensor, level: AnyLevel, y: Tensor, jacobian: VectorJacobian) -> Tensor:
        r2 = level.sigma**2 * self.variance / (level.sigma**2 + level.alpha**2 * self.variance)
        return jacobian(self.measurement.pull(y - self.operator(x0), r2, 1.0))


class TMPD(PosteriorScore):
    """A C Aᵀ with the true C, replaced by the diagonal matrix of its row sums (Boys et al., 2023, sec. 3.3).

    It is exact for Gaussian data and a single measurement. Row sums below 0 are taken for 0.

    Args:
        measurement: A and σ_y > 0.
        sampler: Samples by the score (default: `DDIM` of 100 steps with η = 1).
    """

    needs_noise = True

    @override
    def likelihood_score(self, x0: Tensor, level: AnyLevel, y: Tensor, jacobian: VectorJacobian) -> Tensor:
        sums = self.operator(jacobian(self.operator.adjoint(torch.ones_like(y))))
        variance = level.sigma**2 / level.alpha * sums
        total = variance.clamp(min=0) + self.measurement.noise.to(y) ** 2
        return jacobian(self.operator.adjoint((y - self.operator(x0)) / total))


class MMPS(PosteriorScore):
    """The true C; (A C Aᵀ + σ_y² I)⁻¹ by conjugate gradients (Rozet et al., 2024, "moment matching").

    It is exact for Gaussian data, if there are as many iterations as measurements. More than one pays where
    the derivative J of the network is accurate.

    Args:
        measurement: A and σ_y.
        sampler: Samples by the score (default: `DDIM` of 100 steps with η = 1).
        num_iterations: Iterations of conjugate gradients, a product with J each.
    """

    def __init__(
        self, measurement: Measurement, sampler: Sampler | None = None, num_iterations: int = 1
    ) -> None:
        super().__init__(measurement, sampler)
        if num_iterations < 1:
            raise ConfigurationError(f"MMPS: num_iterations={num_iterations}: must be at least 1")
        self.num_iterations = num_iterations

    @override
    def likelihood_score(self, x0: Tensor, level: AnyLevel, y: Tensor, jacobian: VectorJacobian) -> Tensor:
        scale, noise = level.sigma**2 / level.alpha, self.measurement.noise.to(y) ** 2

        def covariance(v: Tensor) -> Tensor:
            spread: Tensor = self.operator(jacobian(self.operator.adjoint(v)))
            return scale * spread + noise * v

        residual = y - self.operator(x0)
        return jacobian(self.operator.adjoint(conjugate_gradients(covariance, residual, self.num_iterations)))
