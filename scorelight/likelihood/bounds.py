"""Variational bounds on −log p(x0) and their terms, in nats per example.

On levels t_1 < ... < t_N, with t = t_i and s = t_{i−1} (Ho et al., 2020, eq. 5),

    −log p(x0) ≤ KL(q(x_{t_N}|x0) ‖ N(0, σ² I))
                 + Σ_{i>1} E KL(q(x_s|x_t, x0) ‖ p(x_s|x_t)) + E[−log p(x0|x_{t_1})]                (11)

Let γ = log SNR_s − log SNR_t, and let q's variance be c² and p's c^{2(1−f)} σ_{t|s}^{2f} = c²/ρ, that is
log ρ = −f log(σ_t²/σ_s²). Then a term of the sum is

    KL(q(x_s|x_t, x0) ‖ p(x_s|x_t)) = ½ Σ_d [ρ − 1 − log ρ + ρ (e^γ − 1) (ε̂ − ε)²]                  (12)

and as the levels close up (11) becomes (Kingma et al., 2021, eq. 15; Song, Durkan et al., 2021, thm. 3)

    −log p(x0) ≤ KL(...) + ½ ∫ g² E‖∇log p(x_t|x0) − s_θ(x_t)‖² dt + E[−log p(x0|x_{t_min})]         (13)

The last term is for a Gaussian around x̂0 with variance (σ/α)², or the learned variance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.special import erfcx, log_ndtr

from scorelight.denoisers.base import Denoiser, Prediction
from scorelight.errors import ConfigurationError
from scorelight.parameterizations import Epsilon
from scorelight.processes.base import ForwardProcess, Scalar, log
from scorelight.rng import Generators, rand, randn_like
from scorelight.times.base import log_snr_ends, resolve_num_timesteps, timestep_times

__all__ = [
    "Variance",
    "VariationalTerms",
    "check_bound",
    "level_term",
    "negative_log_likelihood",
    "prior_term",
    "variational_bound",
]

_EPSILON = Epsilon()

Variance = Literal["small", "large"]
"""Variance of a reverse step that the network does not learn: c², or σ²_{t|s}."""


def check_bound(variance: Variance, num_bins: int | None) -> None:
    """Raise unless the variance is a known name and there are at least two grey levels."""
    if variance not in ("small", "large"):
        raise ConfigurationError(f"variance={variance!r}: small or large")
    if num_bins is not None and num_bins < 2:
        raise ConfigurationError(f"num_bins={num_bins}: at least 2 are needed")


def prior_term(process: ForwardProcess, x0: Tensor) -> Tensor:
    """KL(N(α x0, σ² I) ‖ N(0, σ² I)) at t_max, shape (B,)."""
    t_max = torch.full((len(x0),), process.t_max, dtype=torch.float64, device=x0.device)
    level = process.at(t_max, like=x0)
    return 0.5 * (level.snr * x0**2).flatten(1).sum(1)


def level_term(
    process: ForwardProcess,
    pred: Prediction,
    x0: Tensor,
    epsilon: Tensor,
    times: Tensor,
    index: Tensor,
    variance: Variance,
    num_bins: int | None,
) -> Tensor:
    """The term of (11) that belongs to each example's level, shape (B,): the last term at the first level.

    Args:
        process: The process.
        pred: Prediction at x_t = α x0 + σ ε.
        x0: Clean data, shape (B, ...).
        epsilon: The noise in x_t, of x0's shape.
        times: Times of all levels, increasing, shape (N,), float64.
        index: Each example's level, from 0, shape (B,).
        variance: Variance of a step, unless the network learns it.
        num_bins: Number of grey levels, see `negative_log_likelihood`.
    """
    t, s = process.at(times[index]), process.at(times[(index - 1).clamp(min=0)])
    gap = _shaped(s.log_snr - t.log_snr, x0)
    log_ratio = 2 * _shaped(t.sigma.log() - s.sigma.log(), x0)
    fraction = pred.variance_fraction
    divergence = _divergence(
        pred, x0, epsilon, gap, log_ratio, float(variance == "large") if fraction is None else fraction
    )
    second = process.at(times[:2]).log_snr
    lost = -torch.expm1(second[1] - second[0])
    level = pred.level
    log_variance: Scalar = -level.log_snr
    if fraction is not None:
        log_variance = 2 * log(level.sigma) + (1 - fraction) * lost.log().to(x0.dtype)
    last = negative_log_likelihood(pred.x0, log_variance, x0, num_bins)
    return torch.where(index == 0, last, divergence)


def _divergence(
    pred: Prediction, x0: Tensor, epsilon: Tensor, gap: Tensor, log_ratio: Tensor, fraction: Tensor | float
) -> Tensor:
    """Equation (12), shape (B,)."""
    log_rho = -fraction * log_ratio
    squared = torch.expm1(gap) * pred.residual(x0, epsilon, _EPSILON) ** 2
    terms = torch.expm1(log_rho) - log_rho + log_rho.exp() * squared
    return 0.5 * terms.flatten(1).sum(1)


def negative_log_likelihood(mean: Tensor, log_variance: Scalar, x0: Tensor, num_bins: int | None) -> Tensor:
    """−log N(x0; mean, variance) in nats, shape (B,), or −log of the probability of the bin around x0.

    Computed in float64. There are `num_bins` bins for grey levels equally spaced from −1 to 1; the outermost
    are open to infinity (Ho et al., 2020, eq. 13).
    """
    dtype = mean.dtype
    log_variance = torch.as_tensor(log_variance, dtype=torch.float64, device=mean.device)
    mean, log_std, x0 = mean.double(), 0.5 * log_variance, x0.double()
    if num_bins is None:
        terms = 0.5 * ((x0 - mean) / log_std.exp()) ** 2 + log_std + 0.5 * math.log(2 * math.pi)
    else:
        terms = -_log_bin_probability(x0, mean, log_std.exp(), num_bins)
    return terms.flatten(1).sum(1).to(dtype)


def _log_bin_probability(x0: Tensor, mean: Tensor, std: Tensor, num_bins: int) -> Tensor:
    """log[Φ(b) − Φ(a)] of the bin around x0; the outermost reach to infinity (Ho et al., 2020, eq. 13)."""
    half = 1 / (num_bins - 1)
    low = torch.where(x0 < -1 + half, -math.inf, (x0 - half - mean) / std)
    high = torch.where(x0 > 1 - half, math.inf, (x0 + half - mean) / std)
    flip = low > 0  # in the upper tail, by symmetry: there Φ rounds to 1 and a difference to 0
    low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
    log_high = _log_ndtr(high)
    return log_high + torch.log1p(-torch.exp(_log_ndtr(low) - log_high))


def _log_ndtr(z: Tensor) -> Tensor:
    """The logarithm of Φ(z); the derivative of torch's own is 10⁻⁴ off at z = −10⁶ and 0 at −10⁹."""
    tail = z.clamp(max=-1)
    log_tail = torch.log(0.5 * erfcx(-math.sqrt(0.5) * tail)) - 0.5 * tail**2
    return torch.where(z < -1, log_tail, log_ndtr(z.clamp(min=-1)))


def _shaped(value: Tensor, like: Tensor) -> Tensor:
    """(B,) in float64 to (B, 1, ...) of like's type."""
    return value.to(like.dtype).reshape(-1, *(1,) * (like.ndim - 1))


@dataclass(frozen=True, slots=True)
class VariationalTerms:
    """Every term of the bound (11) or (13) on −log p(x0), in nats; their sum is `nats`."""

    prior: Tensor
    """KL(q(x_T|x0) ‖ N(0, σ² I)), L_T, shape (B,)."""
    steps: Tensor
    """L_{t−1}, shape (B, N): column i is the step from times[i + 1] to times[i], or the integral over it."""
    decoder: Tensor
    """−log p(x0|x_t) at times[0], L_0, shape (B,)."""
    times: Tensor
    """From t_min to t_max, shape (N + 1,)."""
    size: int
    """Dimensions D."""

    @property
    def nats(self) -> Tensor:
        """The bound, shape (B,)."""
        return self.prior + self.steps.sum(1) + self.decoder

    @property
    def bits_per_dim(self) -> Tensor:
        """The bound in bits per dimension: of a probability if there were `num_bins`, else of a density."""
        return self.nats / (self.size * math.log(2))


@torch.no_grad()
def variational_bound(
    denoiser: Denoiser,
    x0: Tensor,
    *,
    num_timesteps: int | None = None,
    variance: Variance = "small",
    num_bins: int | None = None,
    num_slices: int = 100,
    generator: Generators = None,
    **cond: Any,
) -> VariationalTerms:
    """The variational bound on −log p(x0), all of its terms with one noise each: an unbiased estimate.

    On levels it is (11), one evaluation each. In continuous time the integral of (13) is ½∫ E‖ε̂ − ε‖² over
    log SNR: one random point in each of `num_slices` equal slices.

    Args:
        denoiser: The model.
        x0: Clean data, shape (B, ...).
        num_timesteps: Number of levels (default: those of the process's table, else continuous time).
        variance: Variance of a step unless the network learns it, see `VariationalBound`.
        num_bins: Number of grey levels of the data, from −1 to 1, for a bound on a probability.
        num_slices: Slices of continuous time.
        generator: Source of the noise.
        **cond: Conditions for the network.
    """
    check_bound(variance, num_bins)
    process = denoiser.process
    number = process.num_timesteps if num_timesteps is None else num_timesteps
    evaluate = _NoisyPredictions(denoiser, x0, generator, cond)
    if number is None:
        times, terms = _terms_in_slices(evaluate, num_slices, num_bins)
    else:
        number = resolve_num_timesteps(process, number, "variational_bound")
        times = timestep_times(process, number, x0.device)
        terms = _terms_on_levels(evaluate, times, variance, num_bins)
    decoder, *steps = (term.double() for term in terms)
    prior = prior_term(process, x0).double()
    return VariationalTerms(prior, torch.stack(steps, 1), decoder, times, x0[0].numel())


@dataclass(frozen=True, slots=True)
class _NoisyPredictions:
    """Predictions at x_t = α x0 + σ ε with fresh noise: one evaluation of the network a call."""

    denoiser: Denoiser
    x0: Tensor
    generator: Generators
    cond: dict[str, Any]

    def __call__(self, t: Tensor) -> tuple[Prediction, Tensor]:
        """The prediction at times of shape (B,), and ε."""
        level = self.denoiser.process.at(t, like=self.x0)
        epsilon = randn_like(self.x0, self.generator)
        return self.denoiser.predict(
            level.alpha * self.x0 + level.sigma * epsilon, level, **self.cond
        ), epsilon


def _terms_on_levels(
    evaluate: _NoisyPredictions, times: Tensor, variance: Variance, num_bins: int | None
) -> Iterator[Tensor]:
    """The terms of (11) from the last, at the first level, on."""
    process, x0 = evaluate.denoiser.process, evaluate.x0
    for i in range(len(times)):
        pred, epsilon = evaluate(times[i].repeat(len(x0)))
        index = torch.full((len(x0),), i, device=x0.device)
        yield level_term(process, pred, x0, epsilon, times, index, variance, num_bins)


def _terms_in_slices(
    evaluate: _NoisyPredictions, num_slices: int, num_bins: int | None
) -> tuple[Tensor, Iterator[Tensor]]:
    """Edges of the slices; the last term of (13), then the integral over each slice."""
    if num_slices < 1:
        raise ConfigurationError(f"num_slices={num_slices}: must be at least 1")
    process, x0 = evaluate.denoiser.process, evaluate.x0
    first, last = log_snr_ends(process, x0.device)
    share = torch.linspace(0, 1, num_slices + 1, dtype=torch.float64, device=x0.device)
    width = (last - first) / num_slices

    def terms() -> Iterator[Tensor]:
        pred, _ = evaluate(torch.full((len(x0),), process.t_min, dtype=torch.float64, device=x0.device))
        yield negative_log_likelihood(pred.x0, -pred.level.log_snr, x0, num_bins)
        for i in range(num_slices):
            log_snr = first + width * (i + rand(len(x0), evaluate.generator, x0.device))
            pred, epsilon = evaluate(process.time_of_log_snr(log_snr))
            squared = pred.residual(x0, epsilon, _EPSILON).double() ** 2
            yield -0.5 * width * squared.flatten(1).sum(1)

    return process.time_of_log_snr(first + share * (last - first)), terms()
