"""What the network outputs, and what it is given.

An output is y = a x0 + b ε with two numbers (a, b) per noise level. Together with
x_t = α x0 + σ ε this is a 2×2 system with determinant Δ = αb − σa, hence

    x0 = (b x_t − σ y)/Δ        ε = (α y − a x_t)/Δ                         (5)

An error δ in y is, at the same x_t, an error (δ/Δ_y) Δ_j in any other output j.              (6)
Hence a residual in one space is a known factor times that in another, and all squared losses differ
by known weights only.

| class          | a         | b          | source                                     |
| -------------- | --------- | ---------- | ------------------------------------------ |
| `Epsilon`      | 0         | 1          | Ho et al. (2020), eq. 12                   |
| `Score`        | 0         | −1/σ       | Song & Ermon (2019), eq. 2; Song et al.    |
| `X0`           | 1         | 0          | Ho et al. (2020), sec. 3.2                 |
| `VPrediction`  | −σ        | α          | Salimans & Ho (2022), sec. 4               |
| `Velocity`     | α'        | σ'         | Lipman et al. (2023), eq. 14               |
| `EDM`          | σ/(s n)   | −αs/n      | Karras et al. (2022), eq. 7, table 1       |
| `PosteriorMean`| α_s       | ασ_s²/α_sσ | Ho et al. (2020), eq. 7, s = t − 1/N       |
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from typing_extensions import override

from scorelight.errors import ConfigurationError
from scorelight.processes.base import AnyLevel, Scalar
from scorelight.storage.component import Component

__all__ = [
    "EDM",
    "X0",
    "Epsilon",
    "Parameterization",
    "PosteriorMean",
    "Score",
    "VPrediction",
    "Velocity",
]


class Parameterization(Component, ABC):
    """The pair (a, b) with output y = a x0 + b ε, and what the network is given.

    A network that was trained elsewhere, with other noise labels or without input scaling, is a subclass
    that overrides `noise_label` and `input_scale`.
    """

    sigma_data: float = 1.0
    """Standard deviation s of the data that `input_scale` assumes."""

    @abstractmethod
    def coefficients(self, level: AnyLevel) -> tuple[Scalar, Scalar]:
        """(a, b) at the level."""

    def determinant(self, level: AnyLevel) -> Scalar:
        """Δ = αb − σa; a parameterization is usable where it is not 0."""
        a, b = self.coefficients(level)
        return level.alpha * b - level.sigma * a

    def input_scale(self, level: AnyLevel) -> Scalar:
        """c_in = (σ² + α² s²)^−½, by which x_t is multiplied: the network's input has unit variance.

        It is 1 for VP with s = 1, and Karras et al.'s (2022, table 1) c_in for VE.
        """
        squared = level.sigma**2 + (level.alpha * self.sigma_data) ** 2
        scale: Scalar = squared**-0.5
        return scale

    def noise_label(self, level: AnyLevel) -> Scalar:
        """log(σ/α) = −½ log SNR, from which the network knows the noise level.

        It means the same for every process; for VE it is the log σ of Song et al. (2021).
        """
        return -0.5 * level.log_snr


class Epsilon(Parameterization):
    """The noise: y = ε."""

    @override
    def coefficients(self, level: AnyLevel) -> tuple[Scalar, Scalar]:
        return 0.0, 1.0


class Score(Parameterization):
    """The score of the perturbed data: y = ∇log p_t(x_t) = −E[ε | x_t]/σ."""

    @override
    def coefficients(self, level: AnyLevel) -> tuple[Scalar, Scalar]:
        return 0.0, -1 / level.sigma


class X0(Parameterization):
    """The clean data: y = x0."""

    @override
    def coefficients(self, level: AnyLevel) -> tuple[Scalar, Scalar]:
        return 1.0, 0.0


class VPrediction(Parameterization):
    """y = α ε − σ x0."""

    @override
    def coefficients(self, level: AnyLevel) -> tuple[Scalar, Scalar]:
        return -level.sigma, level.alpha


class Velocity(Parameterization):
    """The velocity of the probability flow: y = α' x0 + σ' ε."""

    @override
    def coefficients(self, level: AnyLevel) -> tuple[Scalar, Scalar]:
        return level.dalpha, level.dsigma


class EDM(Parameterization):
    """Karras et al.'s F, of unit variance for data of standard deviation s, for any α and σ.

    x0 = c_skip x_t + c_out y with c_skip = αs²/n², c_out = σs/n, n² = σ² + α²s²; and c_in = 1/n.

    Args:
        sigma_data: Standard deviation s of the data.
    """

    def __init__(self, sigma_data: float = 0.5) -> None:
        if not sigma_data > 0:
            raise ConfigurationError(f"sigma_data={sigma_data}: must be positive")
        self.sigma_data = sigma_data

    @override
    def coefficients(self, level: AnyLevel) -> tuple[Scalar, Scalar]:
        s = self.sigma_data
        n = (level.sigma**2 + (level.alpha * s) ** 2) ** 0.5
        return level.sigma / (s * n), -level.alpha * s / n


class PosteriorMean(Parameterization):
    """The mean of a step back, of q(x_s | x_t, x0) with s = t − 1/N: μ̃ of Ho et al. (2020), eq. 7.

        μ̃ = α_s x0 + (α/α_s)(σ_s²/σ) ε,   α_s = α exp(−f/N),   σ_s² = 1 − α_s²

    For variance-preserving processes; exact for the levels of a `DDPMProcess` with N timesteps. Its first
    step ends in the data: there μ̃ is x0. An error δ of μ̃ is one of δ σ²/(α_s σ²_{t|s}) in x0: large where a
    step changes little.

    Args:
        num_timesteps: Number N of steps, that of the process's table.
    """

    def __init__(self, num_timesteps: int = 1000) -> None:
        if num_timesteps < 1:
            raise ConfigurationError(f"num_timesteps={num_timesteps}: must be at least 1")
        self.num_timesteps = num_timesteps

    def _step(self, level: AnyLevel) -> tuple[Scalar, Scalar]:
        """α_s, and the variance that the step adds, σ²_{t|s} = 1 − (α/α_s)²."""
        if isinstance(level.alpha, float) and abs(level.alpha**2 + level.sigma**2 - 1) > 1e-6:
            raise ConfigurationError(
                "PosteriorMean: is for variance-preserving processes, such as DDPMProcess; use X0 or Epsilon"
            )
        exponent = level.f / self.num_timesteps
        if isinstance(exponent, Tensor):
            return level.alpha * torch.exp(-exponent), -torch.expm1(2 * exponent)
        return level.alpha * math.exp(-exponent), -math.expm1(2 * exponent)

    @override
    def coefficients(self, level: AnyLevel) -> tuple[Scalar, Scalar]:
        before, added = self._step(level)
        return before, before / level.alpha * (level.sigma**2 - added) / level.sigma

    @override
    def determinant(self, level: AnyLevel) -> Scalar:
        before, added = self._step(level)
        return -before * added / level.sigma
