"""The three processes of Song et al. (2021), "Score-based generative modeling through SDEs".

With B(t) = ∫₀ᵗ β = β_min t + ½ (β_max − β_min) t²:

    VP       α = exp(−B/2)   σ² = 1 − exp(−B)        (their eq. 29, 33)     DDPM in the limit
    sub-VP   α = exp(−B/2)   σ  = 1 − exp(−B)        (their eq. 29, 34)
    VE       α = 1           σ  = σ_min (σ_max/σ_min)ᵗ   (their eq. 31)     SMLD in the limit

1 − exp(−B) is written −expm1(−B): in single precision the plain form is off by 3 % at small t.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scorelight.errors import ConfigurationError
from scorelight.processes.base import ForwardProcess

__all__ = ["VESDE", "VPSDE", "SubVPSDE"]


def _integrated_beta(t: Tensor, beta_min: float, beta_max: float) -> Tensor:
    """B(t) = β_min t + ½ (β_max − β_min) t²."""
    return t * (beta_min + 0.5 * (beta_max - beta_min) * t)


def _check_beta(beta_min: float, beta_max: float, t_min: float) -> None:
    if not 0 < beta_min <= beta_max:
        raise ConfigurationError(
            f"beta_min={beta_min}, beta_max={beta_max}: 0 < beta_min <= beta_max is needed"
        )
    if t_min <= 0:
        raise ConfigurationError(f"t_min={t_min}: must be positive, since sigma(0) = 0")


class VPSDE(ForwardProcess):
    """Variance-preserving process, the continuous DDPM: dx = −½β(t) x dt + √β(t) dw.

    Args:
        beta_min: β(0), positive.
        beta_max: β(1), at least beta_min.
        t_min: Smallest time used; σ(t_min) = 0.010 by default.
        t_max: Time of the prior.
    """

    def __init__(
        self, beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-3, t_max: float = 1.0
    ) -> None:
        super().__init__(t_min, t_max)
        _check_beta(beta_min, beta_max, t_min)
        self.beta_min = beta_min
        self.beta_max = beta_max

    def alpha(self, t: Tensor) -> Tensor:
        """exp(−B/2)."""
        return torch.exp(-0.5 * _integrated_beta(t, self.beta_min, self.beta_max))

    def sigma(self, t: Tensor) -> Tensor:
        """sqrt(1 − exp(−B))."""
        return torch.sqrt(-torch.expm1(-_integrated_beta(t, self.beta_min, self.beta_max)))


class SubVPSDE(ForwardProcess):
    """Sub-variance-preserving process: VP's drift, g² = β(t) (1 − exp(−2B)), a smaller variance than VP.

    Args:
        beta_min: β(0), positive.
        beta_max: β(1), at least beta_min.
        t_min: Smallest time used; σ(t_min) = 0.00011 by default.
        t_max: Time of the prior.
    """

    def __init__(
        self, beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-3, t_max: float = 1.0
    ) -> None:
        super().__init__(t_min, t_max)
        _check_beta(beta_min, beta_max, t_min)
        self.beta_min = beta_min
        self.beta_max = beta_max

    def alpha(self, t: Tensor) -> Tensor:
        """exp(−B/2)."""
        return torch.exp(-0.5 * _integrated_beta(t, self.beta_min, self.beta_max))

    def sigma(self, t: Tensor) -> Tensor:
        """1 − exp(−B)."""
        return -torch.expm1(-_integrated_beta(t, self.beta_min, self.beta_max))


class VESDE(ForwardProcess):
    """Variance-exploding process, the continuous SMLD: dx = σ(t) sqrt(2 log(σ_max/σ_min)) dw.

    The state at t = 0 already carries noise of σ_min, as equation (1) says; Song et al. start the SDE
    at the data and then call its variance σ(t)² where it is σ(t)² − σ_min².

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
        if not 0 < sigma_min < sigma_max:
            raise ConfigurationError(
                f"sigma_min={sigma_min}, sigma_max={sigma_max}: 0 < sigma_min < sigma_max is needed"
            )
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max

    def alpha(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        """σ_min (σ_max/σ_min)ᵗ."""
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** t
