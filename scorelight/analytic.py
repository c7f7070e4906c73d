"""Densities with a known answer: the oracles that every sampler, objective and likelihood is held against.

With x0 ~ Σ_k w_k N(m_k, C_k), equation (1) keeps p_t a mixture: Σ_k w_k N(α m_k, α² C_k + σ² I). Hence
log p_t, the score and the posterior mean are closed forms for every process.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from scorelight.denoiser import Denoiser, Prediction
from scorelight.errors import ConfigurationError
from scorelight.parameterizations import Epsilon
from scorelight.processes.base import ForwardProcess, NoiseLevel, Scalar
from scorelight.seeding import Generators, rand, randn_like

__all__ = ["AnalyticDenoiser", "GaussianMixture"]


class GaussianMixture(nn.Module):
    """A mixture of Gaussians in float64, for data of any shape.

    Args:
        weights: Shape (K,), positive; scaled to sum to one.
        means: Shape (K, *shape).
        covariances: Shape (K, D, D) with D = prod(shape), or (K,) variances of isotropic components.
    """

    weights: Tensor
    means: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        super().__init__()
        self.shape = means.shape[1:]
        flat = means.double().flatten(1)
        k, d = flat.shape
        if covariances.ndim == 1:
            covariances = covariances.double()[:, None, None] * torch.eye(d, dtype=torch.float64)
        if weights.shape != (k,) or covariances.shape != (k, d, d):
            raise ConfigurationError(
                f"weights {tuple(weights.shape)}, means {tuple(means.shape)}, covariances "
                f"{tuple(covariances.shape)}: expected ({k},), ({k}, ...), ({k}, {d}, {d})"
            )
        if not ((weights >= 0).all() and weights.sum() > 0):
            raise ConfigurationError(f"weights {weights.tolist()}: must be positive")
        covariances = covariances.double()
        eigenvalues, eigenvectors = torch.linalg.eigh(covariances)
        rounding = 1e-6 * eigenvalues.abs().max()
        if not (eigenvalues >= -rounding).all() or (covariances - covariances.mT).abs().max() > rounding:
            raise ConfigurationError("covariances: must be symmetric and without negative eigenvalues")
        self.register_buffer("weights", weights.double() / weights.double().sum())
        self.register_buffer("means", flat)
        self.register_buffer("eigenvalues", eigenvalues.clamp(min=0))
        self.register_buffer("eigenvectors", eigenvectors)

    def _components(self, x: Tensor, alpha: Scalar, sigma: Scalar) -> tuple[Tensor, Tensor, Tensor]:
        """Per component, in the eigenbasis: x − αm (B, K, D), its variance, and log w_k N_k (B, K)."""
        alpha, sigma = (v.reshape(-1, 1, 1) if isinstance(v, Tensor) else v for v in (alpha, sigma))
        centred = x.double().flatten(1)[:, None, :] - alpha * self.means
        centred = torch.einsum("bkd,kde->bke", centred, self.eigenvectors)
        variance = alpha**2 * self.eigenvalues + sigma**2 + torch.zeros_like(centred)
        log_normal = -0.5 * (centred**2 / variance + variance.log() + math.log(2 * math.pi)).sum(-1)
        return centred, variance, self.weights.log() + log_normal

    def log_prob(self, x: Tensor, alpha: Scalar = 1.0, sigma: Scalar = 0.0) -> Tensor:
        """Log density in nats, shape (B,), of α x0 + σ ε; of the data itself by default."""
        return self._components(x, alpha, sigma)[2].logsumexp(1)

    def score(self, x: Tensor, alpha: Scalar = 1.0, sigma: Scalar = 0.0) -> Tensor:
        """Gradient of `log_prob` in x, shape of x, float64."""
        centred, variance, log_joint = self._components(x, alpha, sigma)
        pull = torch.einsum("bke,kde->bkd", centred / variance, self.eigenvectors)
        return -torch.einsum("bk,bkd->bd", log_joint.softmax(1), pull).reshape(x.shape)

    def sample(self, num: int, generator: Generators = None) -> Tensor:
        """`num` exact samples, shape (num, *shape), float64."""
        uniform = rand(num, generator, self.means.device)
        k = torch.searchsorted(self.weights.cumsum(0), uniform).clamp(max=len(self.weights) - 1)
        noise = randn_like(self.means[k], generator) * self.eigenvalues[k].sqrt()
        return (self.means[k] + torch.einsum("bde,be->bd", self.eigenvectors[k], noise)).reshape(
            num, *self.shape
        )


class AnalyticDenoiser(Denoiser):
    """The exact denoiser of a known density under a process: what a perfect network would answer.

    Args:
        density: The distribution of the data.
        process: The forward process.
    """

    def __init__(self, density: GaussianMixture, process: ForwardProcess) -> None:
        super().__init__()
        self.density = density
        self.process = process
        self.parameterization = Epsilon()

    def predict(self, x_t: Tensor, level: NoiseLevel, **cond: Any) -> Prediction:
        """E[ε | x_t] = −σ ∇log p_t(x_t)."""
        epsilon = -level.sigma * self.density.score(x_t, level.alpha, level.sigma)
        return Prediction(x_t, level, epsilon.to(x_t.dtype), self.parameterization)
