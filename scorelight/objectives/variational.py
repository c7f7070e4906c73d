"""Variational bounds on −log p(x0), in nats per example.

On levels t_1 < ... < t_N, with t = t_i and s = t_{i−1} (Ho et al., 2020, eq. 5),

    −log p(x0) ≤ KL(q(x_{t_N}|x0) ‖ N(0, σ² I))
                 + Σ_{i>1} E KL(q(x_s|x_t, x0) ‖ p(x_s|x_t)) + E[−log p(x0|x_{t_1})]                (11)

Let γ = log SNR_s − log SNR_t, and let q's variance be c² and p's c^{2(1−f)} σ_{t|s}^{2f} = c²/ρ, that is
log ρ = −f log(σ_t²/σ_s²). Then a term of the sum is

    KL(q(x_s|x_t, x0) ‖ p(x_s|x_t)) = ½ Σ_d [ρ − 1 − log ρ + ρ (e^γ − 1) (ε̂ − ε)²]                  (12)

and as the levels close up (11) becomes (Kingma et al., 2021, eq. 15; Song, Durkan et al., 2021, thm. 3)

    −log p(x0) ≤ KL(...) + ½ ∫ g² E‖∇log p(x_t|x0) − s_θ(x_t)‖² dt + E[−log p(x0|x_{t_min})]         (13)

The last term is that of a Gaussian around x̂0 with variance (σ/α)², or the learned one.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.special import erfcx, log_ndtr

from scorelight.denoiser import Denoiser, Prediction
from scorelight.errors import ConfigurationError
from scorelight.objectives.base import Loss, Noisy, Objective, draw, weighted
from scorelight.parameterizations import Epsilon, Score
from scorelight.processes.base import ForwardProcess
from scorelight.seeding import Generators
from scorelight.times import DiscreteTime, ImportanceTime, TimeSampler
from scorelight.times.base import level_index, level_number, level_times

__all__ = ["HybridObjective", "VariationalBound"]


class VariationalBound(Objective):
    """The bound (11) on levels, (13) in continuous time: an unbiased estimate for each example, in nats.

    On levels each example gets one of the N terms after the first, N-fold; in continuous time one t and
    the last term, with two evaluations of the network.

    Args:
        num_levels: Number of levels (default: those of the process's table, else continuous time).
        variance: Variance of a step unless the network learns it: ``small`` is c², ``large`` σ²_{t|s}. At
            little noise ``large`` is exact; ``small`` costs DDPM's table 0.29 nats per dimension for any N.
        bins: Number of grey levels of the data, equally spaced from −1 to 1, each standing for the interval
            around it; the bound is then on a probability (Ho et al., 2020, eq. 13). Default: on a density.
        time_sampler: Distribution of t, which must be unbiased (default `DiscreteTime` or `ImportanceTime`).
    """

    trains_process = True

    def __init__(
        self,
        num_levels: int | None = None,
        variance: Literal["small", "large"] = "small",
        bins: int | None = None,
        time_sampler: TimeSampler | None = None,
    ) -> None:
        super().__init__()
        if variance not in ("small", "large"):
            raise ConfigurationError(f"variance={variance!r}: small or large")
        if bins is not None and bins < 2:
            raise ConfigurationError(f"bins={bins}: at least 2 are needed")
        if time_sampler and not time_sampler.unbiased:
            name = type(time_sampler).__name__
            raise ConfigurationError(
                f"VariationalBound: with time_sampler={name} it would be no bound; use UniformTime, "
                "StratifiedTime, ImportanceTime, or on levels DiscreteTime or LossAwareTime"
            )
        self.num_levels = num_levels
        self.variance = variance
        self.bins = bins
        self.time_sampler = time_sampler

    def forward(self, denoiser: Denoiser, x0: Tensor, *, generator: Generators = None, **cond: Any) -> Loss:
        """The bound for each example."""
        process = denoiser.process
        sampler = self.times(process)
        noisy = draw(process, x0, sampler, generator)
        pred = denoiser.predict(noisy.x_t, noisy.level, **cond)
        if sampler.num_levels_of(process):
            rest = weighted(process, noisy, sampler, self.term(process, pred, x0, noisy))
        else:
            squared = pred.residual(x0, noisy.epsilon, Score()) ** 2
            value = 0.5 * (process.t_max - process.t_min) * (noisy.level.g2 * squared).flatten(1).sum(1)
            rest = weighted(process, noisy, sampler, value) + self._last_term(denoiser, x0, noisy, cond)
        return Loss(_prior_term(process, x0) + rest, noisy.t)

    def times(self, process: ForwardProcess) -> TimeSampler:
        """The time sampler, on the levels of the bound if it has levels."""
        number = process.num_levels if self.num_levels is None else self.num_levels
        if self.time_sampler is None:
            return ImportanceTime() if number is None else DiscreteTime(number)
        return _on_levels(number, self.time_sampler, process, "VariationalBound")

    def term(self, process: ForwardProcess, pred: Prediction, x0: Tensor, noisy: Noisy) -> Tensor:
        """N times the term of (11) that belongs to each example's level, shape (B,)."""
        number = level_number(process, self.num_levels, "VariationalBound")
        times = level_times(process, number, noisy.t.device)
        index = level_index(process, number, noisy.t)
        t, s = process.evaluate(times[index]), process.evaluate(times[(index - 1).clamp(min=0)])
        gap = _shaped(s.log_snr - t.log_snr, x0)
        log_ratio = 2 * _shaped(t.sigma.log() - s.sigma.log(), x0)
        fraction = pred.variance_fraction
        divergence = _divergence(
            pred, x0, noisy, gap, log_ratio, float(self.variance == "large") if fraction is None else fraction
        )
        second = process.evaluate(times[:2]).log_snr
        lost = -torch.expm1(second[1] - second[0])
        log_variance = -noisy.level.log_snr
        if fraction is not None:
            log_variance = 2 * noisy.level.sigma.log() + (1 - fraction) * lost.log().to(x0.dtype)
        last = _negative_log_likelihood(pred.x0, log_variance, x0, self.bins)
        return number * torch.where(index == 0, last, divergence)

    def _last_term(self, denoiser: Denoiser, x0: Tensor, noisy: Noisy, cond: dict[str, Any]) -> Tensor:
        """−log p(x0|x_t) at t_min with p = N(x̂0, (σ/α)² I), from the noise of the main term."""
        level = denoiser.process.level(torch.full_like(noisy.t, denoiser.process.t_min), like=x0)
        pred = denoiser.predict(level.alpha * x0 + level.sigma * noisy.epsilon, level, **cond)
        return _negative_log_likelihood(pred.x0, -level.log_snr, x0, self.bins)


_NO_VARIANCE = (
    "HybridObjective: the network does not learn the variance; set model.network.learned_variance to true"
)


class HybridObjective(Objective):
    """L_simple + λ L_vlb with the mean held fixed in the bound (Nichol & Dhariwal, 2021, eq. 16).

    L_simple trains the mean and L_vlb, in bits per dimension, the variance. The network must learn
    the variance: ``learned_variance: true``.

    Args:
        bound_weight: Their λ.
        num_levels: Number of levels (default: those of the process's table).
        bins: Number of grey levels of the data, see `VariationalBound`.
        time_sampler: Distribution of the level (default `DiscreteTime`).
    """

    def __init__(
        self,
        bound_weight: float = 0.001,
        num_levels: int | None = None,
        bins: int | None = None,
        time_sampler: TimeSampler | None = None,
    ) -> None:
        super().__init__()
        self.bound_weight = bound_weight
        self.bound = VariationalBound(num_levels, bins=bins)
        self.time_sampler = time_sampler or DiscreteTime(num_levels)
        if not self.time_sampler.unbiased:
            name = type(time_sampler).__name__
            raise ConfigurationError(
                f"HybridObjective: time_sampler={name}: DiscreteTime or LossAwareTime is needed"
            )

    def check(self, process: ForwardProcess, network: nn.Module | None = None) -> None:
        """Refuse a network that does not learn the variance, too."""
        super().check(process, network)
        if not getattr(network, "learned_variance", True):
            raise ConfigurationError(_NO_VARIANCE)

    def times(self, process: ForwardProcess) -> TimeSampler:
        """The time sampler, on the levels of the bound."""
        number = level_number(process, self.bound.num_levels, "HybridObjective")
        return _on_levels(number, self.time_sampler, process, "HybridObjective")

    def forward(self, denoiser: Denoiser, x0: Tensor, *, generator: Generators = None, **cond: Any) -> Loss:
        """Mean ‖ε̂ − ε‖² plus λ times the term of the bound, for each example."""
        process = denoiser.process
        noisy = draw(process, x0, self.times(process), generator)
        pred = denoiser.predict(noisy.x_t, noisy.level, **cond)
        if pred.variance_fraction is None:
            raise ConfigurationError(_NO_VARIANCE)
        simple = pred.residual(x0, noisy.epsilon, Epsilon()).square().flatten(1).mean(1)
        fixed_mean = dataclasses.replace(pred, output=pred.output.detach())
        bits = self.bound.term(process, fixed_mean, x0, noisy) / (x0[0].numel() * math.log(2))
        value = simple + self.bound_weight * bits
        return Loss(weighted(process, noisy, self.time_sampler, value), noisy.t)


def _on_levels(
    number: int | None, time_sampler: TimeSampler, process: ForwardProcess, owner: str
) -> TimeSampler:
    """The time sampler, if its levels are those of the bound: `number` of them, or no levels at all."""
    found = time_sampler.num_levels_of(process)
    if found == number:
        return time_sampler
    name, levels = type(time_sampler).__name__, f"{found} levels" if found else "no levels"
    need = (
        f"the bound {number}: use DiscreteTime or LossAwareTime with as many"
        if number
        else f"the bound is in continuous time: give {owner} num_levels={found}, or use UniformTime, "
        "StratifiedTime or ImportanceTime"
    )
    raise ConfigurationError(f"{owner}: time_sampler={name} has {levels}, {need}")


def _prior_term(process: ForwardProcess, x0: Tensor) -> Tensor:
    """KL(N(α x0, σ² I) ‖ N(0, σ² I)) at t_max, shape (B,)."""
    t_max = torch.full((len(x0),), process.t_max, dtype=torch.float64, device=x0.device)
    level = process.level(t_max, like=x0)
    return 0.5 * (level.snr * x0**2).flatten(1).sum(1)


def _divergence(
    pred: Prediction, x0: Tensor, noisy: Noisy, gap: Tensor, log_ratio: Tensor, fraction: Tensor | float
) -> Tensor:
    """Equation (12), shape (B,)."""
    log_rho = -fraction * log_ratio
    squared = torch.expm1(gap) * pred.residual(x0, noisy.epsilon, Epsilon()) ** 2
    terms = torch.expm1(log_rho) - log_rho + log_rho.exp() * squared
    return 0.5 * terms.flatten(1).sum(1)


def _negative_log_likelihood(mean: Tensor, log_variance: Tensor, x0: Tensor, bins: int | None) -> Tensor:
    """−log N(x0; mean, variance) in nats, shape (B,), or that of the bin around x0; in float64."""
    dtype = mean.dtype
    mean, log_std, x0 = mean.double(), 0.5 * log_variance.double(), x0.double()
    if bins is None:
        terms = 0.5 * ((x0 - mean) / log_std.exp()) ** 2 + log_std + 0.5 * math.log(2 * math.pi)
    else:
        terms = -_log_bin_probability(x0, mean, log_std.exp(), bins)
    return terms.flatten(1).sum(1).to(dtype)


def _log_bin_probability(x0: Tensor, mean: Tensor, std: Tensor, bins: int) -> Tensor:
    """log[Φ(b) − Φ(a)] of the bin around x0; the outermost reach to infinity (Ho et al., 2020, eq. 13)."""
    half = 1 / (bins - 1)
    low = torch.where(x0 < -1 + half, -math.inf, (x0 - half - mean) / std)
    high = torch.where(x0 > 1 - half, math.inf, (x0 + half - mean) / std)
    flip = low > 0  # in the upper tail, by symmetry: there Φ is 1 and a difference nothing
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
