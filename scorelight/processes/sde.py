"""Processes given as SDEs: the three of Song et al. (2021), the cosine schedule, and Karras et al.'s.

With B(t) = ∫₀ᵗ β = β_min t + ½ (β_max − β_min) t²:

    VP       α = exp(−B/2)   σ² = 1 − exp(−B)        (their eq. 29, 33)     DDPM in the limit
    sub-VP   α = exp(−B/2)   σ  = 1 − exp(−B)        (their eq. 29, 34)
    VE       α = 1           σ  = σ_min (σ_max/σ_min)ᵗ   (their eq. 31)     SMLD in the limit

1 − exp(−B) is written −expm1(−B): in single precision the plain form is off by 3 % at small t.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from typing_extensions import override

from scorelight.errors import ConfigurationError
from scorelight.processes.base import ForwardProcess, S, check_open, check_sigmas

__all__ = ["VESDE", "VPSDE", "CosineVPSDE", "KarrasVESDE", "SubVPSDE"]


def _sigma_over_alpha(log_snr: Tensor) -> Tensor:
    return torch.exp(-0.5 * log_snr.to(torch.float64))


class _LinearBetaSDE(ForwardProcess):
    """α = exp(−B/2); the base of the two processes whose β is linear in t."""

    def __init__(
        self, beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-3, t_max: float = 1.0
    ) -> None:
        super().__init__(t_min, t_max)
        if not 0 < beta_min <= beta_max < math.inf:
            raise ConfigurationError(
                f"beta_min={beta_min}, beta_max={beta_max}: 0 < beta_min <= beta_max is needed"
            )
        if t_min <= 0:
            raise ConfigurationError(f"t_min={t_min}: must be positive, since sigma(0) = 0")
        self.beta_min = beta_min
        self.beta_max = beta_max

    def _integral(self, t: Tensor) -> Tensor:
        """B(t)."""
        return t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)

    def _time_of_integral(self, integral: Tensor) -> Tensor:
        """Positive root of B(t) = B, written without a difference: it holds for β_min = β_max too."""
        integral = integral.clamp(max=0.5 * (self.beta_min + self.beta_max))
        root = torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral)
        return self._within(2 * integral / (self.beta_min + root))

    @override
    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-0.5 * self._integral(t))


class VPSDE(_LinearBetaSDE):
    """Variance-preserving process, the continuous DDPM: dx = −½β(t) x dt + √β(t) dw.

    Args:
        beta_min: β(0), positive.
        beta_max: β(1), at least beta_min.
        t_min: Smallest time used; σ(t_min) = 0.010 by default.
        t_max: Time of the prior.
    """

    @override
    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-self._integral(t)))

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """The root for B = log(1 + σ²/α²)."""
        return self._time_of_integral(-logsigmoid(log_snr.to(torch.float64)))


class SubVPSDE(_LinearBetaSDE):
    """Sub-variance-preserving process: VP's drift, g² = β(t) (1 − exp(−2B)), a smaller variance than VP.

    Args:
        beta_min: β(0), positive.
        beta_max: β(1), at least beta_min.
        t_min: Smallest time used; σ(t_min) = 0.00011 by default.
        t_max: Time of the prior.
    """

    @override
    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self._integral(t))

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """The root for B = 2 asinh(½ σ/α), since σ/α = 2 sinh(B/2)."""
        return self._time_of_integral(2 * torch.asinh(0.5 * _sigma_over_alpha(log_snr)))


class VESDE(ForwardProcess):
    """Variance-exploding process, the continuous SMLD: dx = σ(t) sqrt(2 log(σ_max/σ_min)) dw.

    By equation (1) the state at t = 0 already has noise of σ_min. Song et al. start the SDE at the data and
    write σ(t)² for its variance, which is then σ(t)² − σ_min².

    Args:
        sigma_min: σ(0), positive.
        sigma_max: σ(1); Song's rule is the largest distance between two training examples.
        t_min: Smallest time used.
        t_max: Time of the prior.
    """

    def __init__(
        self, sigma_min: float = 0.01, sigma_max: float = 50.0, t_min: float = 0.0, t_max: float = 1.0
    ) -> None:
        super().__init__(t_min, t_max)
        check_sigmas(sigma_min, sigma_max)
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max

    @override
    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    @override
    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """log(σ/σ_min)/log(σ_max/σ_min) with log σ = −½ log SNR."""
        log_sigma = -0.5 * log_snr.to(torch.float64)
        rise = log_sigma - math.log(self.sigma_min)
        return self._within(rise / math.log(self.sigma_max / self.sigma_min))


class CosineVPSDE(ForwardProcess):
    """Variance-preserving process with the cosine schedule (Nichol & Dhariwal, 2021, eq. 17).

    α(t) = cos a(t)/cos a₀ with a(t) = π/2 (t + s)/(1 + s); σ² = 1 − α² = sin(a − a₀) sin(a + a₀)/cos² a₀.

    Args:
        offset: Their s, which keeps the first steps from being too small; not negative.
        t_min: Smallest time used; σ(t_min) = 0.0064 by default.
        t_max: Time of the prior, below 1, where α = 0; by default the value of Lu et al. (2022), app. D.
    """

    def __init__(self, offset: float = 0.008, t_min: float = 1e-3, t_max: float = 0.9946) -> None:
        super().__init__(t_min, t_max)
        check_open(t_min, t_max)
        if not 0 <= offset < math.inf:
            raise ConfigurationError(f"offset={offset}: 0 <= offset is needed")
        self.offset = offset

    def _angle(self, t: S) -> S:
        return math.pi / 2 * (t + self.offset) / (1 + self.offset)

    @override
    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(self._angle(t)) / math.cos(self._angle(0.0))

    def sigma(self, t: Tensor) -> Tensor:
        """sqrt(sin(a − a₀) sin(a + a₀))/cos a₀: no difference of nearly equal numbers."""
        start = self._angle(0.0)
        rise = math.pi / 2 * t / (1 + self.offset)
        return torch.sqrt(torch.sin(rise) * torch.sin(rise + 2 * start)) / math.cos(start)

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """tan² a = tan² a₀ + q² with q = σ/(α cos a₀); a − a₀ follows without cancellation."""
        start = self._angle(0.0)
        low, q = math.tan(start), _sigma_over_alpha(log_snr.clamp(-600, 600)) / math.cos(start)
        high = torch.sqrt(low**2 + q**2)
        rise = torch.atan2(q / (low + high) * q, 1 + low * high)
        return self._within(rise * 2 / math.pi * (1 + self.offset))


class KarrasVESDE(ForwardProcess):
    """Variance-exploding process whose equal steps in t are the noise levels of Karras et al. (2022), eq. 5.

    σ(t) = (σ_min^(1/ρ) + t (σ_max^(1/ρ) − σ_min^(1/ρ)))^ρ and α = 1.

    Args:
        sigma_min: σ(0), positive.
        sigma_max: σ(1).
        rho: Their ρ, positive; 7 spends more of the steps on little noise, 1 makes σ linear in t.
        t_min: Smallest time used.
        t_max: Time of the prior.
    """

    def __init__(
        self,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        rho: float = 7.0,
        t_min: float = 0.0,
        t_max: float = 1.0,
    ) -> None:
        super().__init__(t_min, t_max)
        check_sigmas(sigma_min, sigma_max)
        if not 0 < rho < math.inf:
            raise ConfigurationError(f"rho={rho}: must be positive")
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max
        self.rho = rho

    @override
    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    @override
    def sigma(self, t: Tensor) -> Tensor:
        low, high = self._ends()
        return (low + t * (high - low)) ** self.rho

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """The position of σ^(1/ρ) between its two ends, from 0 to 1."""
        low, high = self._ends()
        return self._within((_sigma_over_alpha(log_snr) ** (1 / self.rho) - low) / (high - low))

    def _ends(self) -> tuple[float, float]:
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
