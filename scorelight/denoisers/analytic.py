"""Densities with closed forms: the oracles of samplers, objectives and likelihoods.

With x0 ~ Σ_k w_k N(m_k, C_k), equation (1) keeps p_t a mixture: Σ_k w_k N(α m_k, α² C_k + σ² I). Hence
log p_t, the score and the posterior mean are closed forms for every process. They also are for data that are
a finite set of points, whose p_t is a kernel density estimate.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from scorelight.conditions import NO_CLASS
from scorelight.denoisers.base import Denoiser, Prediction
from scorelight.errors import ConfigurationError
from scorelight.parameterizations import Epsilon
from scorelight.processes.base import AnyLevel, ForwardProcess, Scalar
from scorelight.rng import Generators, rand, randn_like

__all__ = ["AnalyticDenoiser", "EmpiricalDenoiser", "GaussianMixture", "posterior_mean"]


class GaussianMixture(nn.Module):
    """A mixture of Gaussians in float64, for data of any shape, perhaps with a class for each component.

    Args:
        weights: Shape (K,), positive; scaled to sum to one.
        means: Shape (K, *shape).
        covariances: Shape (K, D, D) with D = prod(shape), or (K,) variances of isotropic components.
        classes: Class of each component, 0 to C − 1, shape (K,); every class has a component.
    """

    weights: Tensor
    means: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor
    classes: Tensor | None

    def __init__(
        self, weights: Tensor, means: Tensor, covariances: Tensor, classes: Tensor | None = None
    ) -> None:
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
        if classes is not None and set(classes.tolist()) != set(range(int(classes.max()) + 1)):
            raise ConfigurationError(f"classes {classes.tolist()}: every class from 0 on needs a component")
        self.register_buffer("classes", classes)
        self.num_classes = 0 if classes is None else int(classes.max()) + 1

    def _components(self, x: Tensor, alpha: Scalar, sigma: Scalar) -> tuple[Tensor, Tensor, Tensor]:
        """Per component, in the eigenbasis: x − αm (B, K, D), its variance, and log w_k N_k (B, K)."""
        alpha, sigma = (v.reshape(-1, 1, 1) if isinstance(v, Tensor) else v for v in (alpha, sigma))
        centred = x.double().flatten(1)[:, None, :] - alpha * self.means
        centred = torch.einsum("bkd,kde->bke", centred, self.eigenvectors)
        variance = alpha**2 * self.eigenvalues + sigma**2 + torch.zeros_like(centred)
        log_normal = -0.5 * (centred**2 / variance + variance.log() + math.log(2 * math.pi)).sum(-1)
        return centred, variance, self.weights.log() + log_normal

    def _log_joint_of(self, log_joint: Tensor, label: Tensor | None) -> Tensor:
        """Log w_k N_k, −∞ for components of other classes than the label's; `NO_CLASS` has them all."""
        if label is None:
            return log_joint
        if self.classes is None:
            raise ConfigurationError("GaussianMixture: a label was given, and its components have no classes")
        label = label.to(log_joint.device).reshape(-1, 1)
        admitted = (label == self.classes) | (label == NO_CLASS)
        return log_joint.where(admitted, -math.inf)

    def log_prob(
        self, x: Tensor, alpha: Scalar = 1.0, sigma: Scalar = 0.0, label: Tensor | None = None
    ) -> Tensor:
        """Log density in nats, shape (B,), of α x0 + σ ε; of the data itself by default.

        With labels of shape (B,), it is that of the class: log p_t(x | c).
        """
        log_joint = self._components(x, alpha, sigma)[2]
        if label is None:
            return log_joint.logsumexp(1)
        prior = self._log_joint_of(self.weights.log()[None], label).logsumexp(1)
        return self._log_joint_of(log_joint, label).logsumexp(1) - prior

    def score(
        self, x: Tensor, alpha: Scalar = 1.0, sigma: Scalar = 0.0, label: Tensor | None = None
    ) -> Tensor:
        """Gradient of `log_prob` in x, shape of x, float64."""
        centred, variance, log_joint = self._components(x, alpha, sigma)
        pull = torch.einsum("bke,kde->bkd", centred / variance, self.eigenvectors)
        share = self._log_joint_of(log_joint, label).softmax(1)
        return -torch.einsum("bk,bkd->bd", share, pull).reshape(x.shape)

    def log_class_prob(self, x: Tensor, alpha: Scalar = 1.0, sigma: Scalar = 0.0) -> Tensor:
        """Log p(c | x) of every class at a noise level, shape (B, C): the Bayes classifier."""
        if self.classes is None:
            raise ConfigurationError("GaussianMixture: its components have no classes")
        log_share = self._components(x, alpha, sigma)[2].log_softmax(1)
        of_class = [log_share[:, self.classes == c].logsumexp(1) for c in range(self.num_classes)]
        return torch.stack(of_class, 1)

    def sample(self, num: int, generator: Generators = None) -> Tensor:
        """`num` exact samples, shape (num, *shape), float64."""
        uniform = rand(num, generator, self.means.device)
        k = torch.searchsorted(self.weights.cumsum(0), uniform).clamp(max=len(self.weights) - 1)
        noise = randn_like(self.means[k], generator) * self.eigenvalues[k].sqrt()
        return (self.means[k] + torch.einsum("bde,be->bd", self.eigenvectors[k], noise)).reshape(
            num, *self.shape
        )


class AnalyticDenoiser(Denoiser):
    """The exact denoiser of a known density under a process, as a perfect network would be.

    Args:
        density: The distribution of the data.
        process: The forward process.
    """

    def __init__(self, density: GaussianMixture, process: ForwardProcess) -> None:
        super().__init__()
        self.density = density
        self.process = process
        self.num_classes = density.num_classes or None
        self.parameterization = Epsilon()

    def predict(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        """E[ε | x_t] = −σ ∇log p_t(x_t), given the class if there is a ``label``, shape (B,)."""
        epsilon = -level.sigma * self.density.score(x_t, level.alpha, level.sigma, cond.get("label"))
        return Prediction(x_t, level, epsilon.to(x_t.dtype), self.parameterization)


def posterior_mean(
    bank: Tensor,
    x_t: Tensor,
    alpha: Scalar,
    sigma: Scalar,
    labels: tuple[Tensor, Tensor] | None = None,
    chunk_size: int = 4096,
) -> Tensor:
    """E[x0 | x_t] = Σ_n π_n x_n, π = softmax(−‖x_t − α x_n‖²/2σ²), for data that are the points of a bank.

    In float64, in log space and in chunks of the bank, with a running maximum: for any σ, in memory for
    (B + N_chunk) examples. Rounding changes a weight by about 1e-16 (α r/σ)², with r the extent of the bank.

    Args:
        bank: The points x_n, shape (N, ...).
        x_t: Shape (B, ...).
        alpha: α, a float or of shape (B, 1, ...).
        sigma: σ, likewise.
        labels: Classes of x_t, shape (B,), and of the bank, shape (N,), to admit points of the same class
            only; a class without a point in the bank admits all.
        chunk_size: Points processed together.
    """
    alpha, sigma = (v.double().reshape(-1, 1) if isinstance(v, Tensor) else v for v in (alpha, sigma))
    points = bank.flatten(1)
    origin = points[:1].double()  # far from zero, squares would lose the differences of the points
    x = x_t.double().flatten(1) - alpha * origin
    mean, total = torch.zeros_like(x), x.new_zeros(len(x), 1)
    top = torch.full_like(total, -math.inf)
    admitted = None if labels is None else _same_class(*labels)
    for start in range(0, len(points), chunk_size):
        part = points[start : start + chunk_size].double() - origin
        scale = alpha / sigma**2
        logit = scale * (x @ part.mT) - 0.5 * alpha * scale * part.square().sum(1)  # ‖x_t‖² cancels
        if admitted is not None:
            logit = logit.where(admitted[:, start : start + chunk_size], -math.inf)
        newtop = torch.maximum(top, logit.amax(1, keepdim=True))
        shift = newtop.clamp(min=-1e300)  # no point of the class so far: −∞ − (−∞) is NaN
        weight, keep = (logit - shift).exp(), (top - shift).exp()
        total = keep * total + weight.sum(1, keepdim=True)
        mean, top = keep * mean + weight @ part, newtop
    return (origin + mean / total).reshape(x_t.shape).to(x_t.dtype)


def _same_class(labels: Tensor, bank_labels: Tensor) -> Tensor:
    """Which points have the class of each example, shape (B, N); all points for a class without any."""
    same = labels[:, None] == bank_labels
    return same | ~same.any(1, keepdim=True)


class EmpiricalDenoiser(Denoiser):
    """The exact denoiser of a finite set of points, as a network that memorised them would be.

    Args:
        bank: The points, shape (N, ...).
        process: The forward process.
        chunk_size: Points processed together.
    """

    bank: Tensor

    def __init__(self, bank: Tensor, process: ForwardProcess, chunk_size: int = 4096) -> None:
        super().__init__()
        if chunk_size < 1:
            raise ConfigurationError(f"chunk_size={chunk_size}: must be at least 1")
        self.register_buffer("bank", bank)
        self.process = process
        self.chunk_size = chunk_size
        self.parameterization = Epsilon()

    def predict(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        """E[ε | x_t] = (x_t − α E[x0 | x_t])/σ."""
        mean = posterior_mean(self.bank, x_t, level.alpha, level.sigma, chunk_size=self.chunk_size)
        return Prediction(x_t, level, (x_t - level.alpha * mean) / level.sigma, self.parameterization)
