"""Training times in continuous time."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from typing_extensions import override

from scorelight.errors import ConfigurationError
from scorelight.processes.base import ForwardProcess
from scorelight.rng import Generators, stratified
from scorelight.times.base import TimeSampler, log_sigma_range, log_snr_ends

__all__ = ["FixedTime", "ImportanceTime", "LogNormalTime", "LogitNormalTime", "StratifiedTime", "UniformTime"]


class UniformTime(TimeSampler):
    """t ~ U[t_min, t_max] of the process."""

    def quantile(self, process: ForwardProcess, u: Tensor) -> tuple[Tensor, Tensor]:
        """t_min + u (t_max − t_min); all weights are 1."""
        return process.t_min + (process.t_max - process.t_min) * u, torch.ones_like(u)


class StratifiedTime(TimeSampler):
    """Low-discrepancy times: u_i = (u + i/B) mod 1 with one u for the batch (Kingma et al., 2021, app. I.1).

    Each time has the distribution of `times`; the average over the batch, of all processes together,
    varies less. In validation, where example i must not depend on its batch, the times are
    independent.

    Args:
        times: The distribution to draw from (default `UniformTime`).
    """

    def __init__(self, times: TimeSampler | None = None) -> None:
        super().__init__()
        self.times = times or UniformTime()
        self.unbiased = self.times.unbiased

    @override
    def quantile(self, process: ForwardProcess, u: Tensor) -> tuple[Tensor, Tensor]:
        return self.times.quantile(process, u)

    def forward(
        self, process: ForwardProcess, num: int, *, generator: Generators, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Draw one time from each of `num` slices of equal probability."""
        return self.quantile(process, stratified(num, generator, device))

    @override
    def num_timesteps_of(self, process: ForwardProcess) -> int | None:
        return self.times.num_timesteps_of(process)

    @override
    def observe(self, process: ForwardProcess, t: Tensor, value: Tensor) -> None:
        self.times.observe(process, t, value)


class LogNormalTime(TimeSampler):
    """log(σ/α) ~ N(mean, std²), truncated at t_min and t_max (Karras et al., 2022, table 1 and app. B.6).

    Args:
        mean: Their P_mean.
        std: Their P_std, positive.
    """

    unbiased = False

    def __init__(self, mean: float = -1.2, std: float = 1.2) -> None:
        super().__init__()
        _check_std(std)
        self.mean = mean
        self.std = std

    def quantile(self, process: ForwardProcess, u: Tensor) -> tuple[Tensor, Tensor]:
        """The time of the normal quantile of log(σ/α)."""
        log_sigma = _truncated_normal(u, self.mean, self.std, *log_sigma_range(process))
        return process.time_of_log_snr(-2 * log_sigma), torch.ones_like(u)


class LogitNormalTime(TimeSampler):
    """logit(t) ~ N(mean, std²), truncated at t_min and t_max (Esser et al., 2024, eq. 19).

    Args:
        mean: Mean of the logit; positive for more noise.
        std: Standard deviation of the logit, positive.
    """

    unbiased = False

    def __init__(self, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        _check_std(std)
        self.mean = mean
        self.std = std

    def quantile(self, process: ForwardProcess, u: Tensor) -> tuple[Tensor, Tensor]:
        """The logistic function of the normal quantile."""
        ends = (_logit(t) for t in (process.t_min, process.t_max))
        t = _truncated_normal(u, self.mean, self.std, *ends).sigmoid()
        return t.clamp(process.t_min, process.t_max), torch.ones_like(u)


class FixedTime(TimeSampler):
    """One noise level only, given by its time or by its σ/α.

    Args:
        t: The time, in [t_min, t_max] of the process.
        sigma: Ratio σ/α of noise to data instead, positive; for a VE process, σ itself.
    """

    unbiased = False

    def __init__(self, t: float | None = None, sigma: float | None = None) -> None:
        super().__init__()
        if (t is None) == (sigma is None):
            raise ConfigurationError(f"FixedTime: t={t}, sigma={sigma}: give one of the two")
        if sigma is not None and not sigma > 0:
            raise ConfigurationError(f"FixedTime: sigma={sigma}: must be positive")
        self.t = t
        self.sigma = sigma

    @override
    def quantile(self, process: ForwardProcess, u: Tensor) -> tuple[Tensor, Tensor]:
        if self.t is not None:
            _check_inside("t", self.t, process.t_min, process.t_max)
            return torch.full_like(u, self.t), torch.ones_like(u)
        assert self.sigma is not None
        low, high = map(math.exp, log_sigma_range(process))
        _check_inside("sigma", self.sigma, low, high)
        ratio = torch.full_like(u, self.sigma)
        return process.time_of_log_snr(-2 * ratio.log()), torch.ones_like(u)


class ImportanceTime(TimeSampler):
    """p(t) ∝ g²/σ², for the likelihood weighting λ = g² (Song et al., 2021, "Maximum likelihood", sec. 3).

    Since g²/σ² = −d log SNR/dt for every process of equation (1), this is t at uniform log SNR, and the
    closed form of `time_of_log_snr` draws it: no bisection, no table.
    """

    def quantile(self, process: ForwardProcess, u: Tensor) -> tuple[Tensor, Tensor]:
        """The time at the fraction u of the range of log SNR; the weight (10)."""
        first, last = log_snr_ends(process, u.device)
        t = process.time_of_log_snr(first + u * (last - first))
        level = process.at(t)
        density = level.g2 / level.sigma**2 / (first - last)
        return t, 1 / ((process.t_max - process.t_min) * density)


def _check_inside(name: str, value: float, low: float, high: float) -> None:
    if not low * (1 - 1e-9) <= value <= high * (1 + 1e-9):
        raise ConfigurationError(f"FixedTime: {name}={value}: the process goes from {low:.6g} to {high:.6g}")


def _check_std(std: float) -> None:
    if not std > 0:
        raise ConfigurationError(f"std={std}: must be positive")


def _truncated_normal(u: Tensor, mean: float, std: float, low: float, high: float) -> Tensor:
    """Quantiles of N(mean, std²) between low and high, to full precision in both tails."""
    below, above = _normal_cdf((low - mean) / std), _normal_cdf((mean - high) / std)
    inside = 1 - below - above
    if not inside > 1e-3:
        raise ConfigurationError(
            f"mean={mean}, std={std}: almost no noise level of the process, {low:.3g} to {high:.3g} on this "
            "scale, would be drawn; choose a mean in between or a larger std"
        )
    p, one_minus_p = below + u * inside, above + (1 - u) * inside
    z = torch.where(p < 0.5, torch.special.ndtri(p), -torch.special.ndtri(one_minus_p))
    return mean + std * z


def _normal_cdf(z: float) -> float:
    """Φ(z), to full precision in the lower tail."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def _logit(t: float) -> float:
    """The inverse of the logistic function, −∞ at 0 and ∞ at 1."""
    return math.log(t / (1 - t)) if 0 < t < 1 else math.copysign(math.inf, t - 0.5)
