"""A measurement y = A(x0) + σ_y n, and what is exactly known of x0 for data in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from scorelight.denoisers.analytic import GaussianMixture
from scorelight.errors import ConfigurationError
from scorelight.inverse.conjugate_gradients import conjugate_gradients
from scorelight.inverse.operators import LinearOperator, Operator
from scorelight.posterior.likelihood import Likelihood
from scorelight.processes.base import Scalar
from scorelight.rng import Generators, randn_like

__all__ = ["Measurement", "mixture_posterior"]


_ITERATIONS = 100


class Measurement(Likelihood):
    """p(y | x0) = N(y; A(x0), σ_y² I), of y that is the condition ``measurement``, shape (B, *measured).

    Args:
        operator: A.
        noise: σ_y ≥ 0 in the units of y; or one for each component of y, to which it is broadcast.
    """

    noise: Tensor

    def __init__(self, operator: Operator, noise: float | Sequence[float] | Tensor = 0.0) -> None:
        super().__init__()
        sigma = torch.as_tensor(noise, dtype=torch.float64)
        if not ((sigma >= 0) & sigma.isfinite()).all():
            raise ConfigurationError(f"Measurement: noise={noise}: from 0 on, and finite")
        self.operator = operator
        self.register_buffer("noise", sigma)

    def observe(self, x0: Tensor, generator: Generators = None) -> Tensor:
        """A measurement of each example, with its noise."""
        clean: Tensor = self.operator(x0)
        if not self.noise.any():
            return clean
        return clean + self.noise.to(clean) * randn_like(clean, generator)

    def relative_weight(self, y: Tensor) -> Tensor:
        """1/σ_y of each component of y times the mean of σ_y, and 1 if the noise does not differ or is 0."""
        sigma = self.noise.to(y)
        return sigma.mean() / sigma if sigma.ndim and sigma.all() else torch.ones_like(sigma)

    def pull(self, residual: Tensor, a: Scalar, b: Scalar) -> Tensor:
        """Aᵀ (a A Aᵀ + b Σ_y)⁻¹ r, shape (B, *shape), for a linear A.

        By its singular values; if the noise differs between components, by 100 conjugate gradients of the
        system that is divided by σ_y on both sides.

        Args:
            residual: R, shape (B, *measured).
            a: A number ≥ 0, or one for each example, broadcastable to r.
            b: Likewise.

        Raises:
            ConfigurationError: If some components have noise and others have not.
        """
        operator, sigma = self.operator, self.noise.to(residual)
        assert isinstance(operator, LinearOperator)
        if not sigma.ndim:
            return operator.solve(operator.adjoint(residual), a, b * sigma**2)
        if not sigma.all():
            raise ConfigurationError("Measurement: noise is 0 for some components: all need some, 1e-3 or so")

        def system(v: Tensor) -> Tensor:
            spread: Tensor = operator(operator.adjoint(v / sigma))
            return a * spread / sigma + b * v

        solution = conjugate_gradients(system, residual / sigma, _ITERATIONS)
        return operator.adjoint(solution / sigma)

    @override
    def log_prob(self, x0: Tensor, **cond: Any) -> Tensor:
        """−‖(y − A(x0))/σ_y‖²/2, shape (B,), up to a constant.

        Raises:
            ConfigurationError: If the measurement has no noise, and so no density.
        """
        if not self.noise.all():
            raise ConfigurationError("Measurement: noise=0: the likelihood needs noise of the measurement")
        residual: Tensor = (cond["measurement"] - self.operator(x0)) / self.noise.to(x0)
        return -0.5 * residual.flatten(1).square().sum(1)


def mixture_posterior(density: GaussianMixture, measurement: Measurement, y: Tensor) -> GaussianMixture:
    """p(x0 | y) of a mixture and one measurement by a linear operator: a mixture again.

    w_k ∝ w_k N(y; A m_k, S_k),  m_k + K_k (y − A m_k),  (I − K_k A) C_k,  with S_k = A C_k Aᵀ + σ_y² I and
    K_k = C_k Aᵀ S_k⁻¹.

    Args:
        density: p(x0).
        measurement: A and σ_y; without noise A must have full rank.
        y: One measurement, without a dimension for a batch.

    Raises:
        ConfigurationError: If the operator is not linear.
    """
    if not isinstance(measurement.operator, LinearOperator):
        raise ConfigurationError("mixture_posterior: a linear operator is needed")
    a = measurement.operator.matrix()
    y = y.double().flatten()
    noise = measurement.noise.expand(y.shape) if measurement.noise.ndim < 2 else measurement.noise.flatten()
    basis = density.eigenvectors
    covariances = (basis * density.eigenvalues[:, None, :]) @ basis.mT
    of_y = a @ covariances @ a.mT + torch.diag(noise**2)
    gain = torch.linalg.solve(of_y, a @ covariances).mT
    residual = y - density.means @ a.mT
    whitened = torch.linalg.solve(of_y, residual[..., None])[..., 0]
    log_normal = -0.5 * (
        (residual * whitened).sum(1) + torch.linalg.slogdet(of_y)[1] + len(y) * math.log(2 * math.pi)
    )
    weights = (density.weights.log() + log_normal).softmax(0)
    means = density.means + (gain @ residual[..., None])[..., 0]
    rest = torch.eye(a.shape[1], dtype=torch.float64) - gain @ a
    after = rest @ covariances @ rest.mT + (gain * noise**2) @ gain.mT  # rounds to no negative eigenvalue
    return GaussianMixture(weights, means.reshape(-1, *density.shape), after, density.classes)
