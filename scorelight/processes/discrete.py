"""Discrete-time processes: a table of N noise levels, interpolated to a process in continuous time.

Level i = 1, ..., N has the time t = i/N. Between two levels log ᾱ (β-table) or log σ (σ-table) is linear in
t: the levels are exact, and equation (2) holds in between, with f and g² constant there (DDPM) or σ geometric
(SMLD). The N times of a `UniformGrid` are the levels themselves.

The tables are plain float64 tensors, not buffers: a module that is cast to half precision casts its buffers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from typing_extensions import override

from scorelight.errors import ConfigurationError
from scorelight.processes.base import ForwardProcess, check_sigmas

__all__ = ["DDPMProcess", "SMLDProcess"]


class DDPMProcess(ForwardProcess):
    """Ho et al. (2020): q(x_i | x_{i−1}) = N(√(1 − β_i) x_{i−1}, β_i I), hence α_i² = ᾱ_i = Π (1 − β_j).

    ============== ======================================================================================
    schedule       β_i
    ============== ======================================================================================
    linear         linspace(10⁻⁴, 0.02, N) · 1000/N                                (Ho et al., 2020, sec. 4)
    scaled_linear  linspace(√0.00085, √0.012, N)² · 1000/N                    (Rombach et al., 2022, app. E)
    cosine         min(1 − ᾱ(i/N)/ᾱ((i−1)/N), 0.999), ᾱ(t) ∝ cos²(π/2 (t + 0.008)/1.008)
                                                                           (Nichol & Dhariwal, 2021, eq. 17)
    ============== ======================================================================================

    Args:
        num_timesteps: Number N of levels.
        schedule: Name of a β-table.
        betas: A custom table instead, each 0 < β < 1; its length is then N.
        keep: Levels to keep, increasing, from 1 to N (default all): β'_i = 1 − ᾱ_{s_i}/ᾱ_{s_{i−1}}, respacing
            (Nichol & Dhariwal, 2021, sec. 4).
    """

    def __init__(
        self,
        num_timesteps: int = 1000,
        schedule: Literal["linear", "scaled_linear", "cosine"] = "linear",
        betas: Sequence[float] | None = None,
        keep: Sequence[int] | None = None,
    ) -> None:
        table = (
            _beta_table(num_timesteps, schedule)
            if betas is None
            else torch.tensor(betas, dtype=torch.float64)
        )
        if table.ndim != 1 or len(table) < 2 or not ((table > 0) & (table < 1)).all():
            more = "; more levels make them smaller" if betas is None else ""
            made = f"num_timesteps={num_timesteps}, schedule={schedule}" if betas is None else "betas"
            raise ConfigurationError(f"{made}: at least two betas, all between 0 and 1, are needed{more}")
        log_alpha_bar = torch.log1p(-table).cumsum(0)
        if keep is not None:
            log_alpha_bar = log_alpha_bar[_kept(keep, len(table))]
        super().__init__(t_min=1 / len(log_alpha_bar), t_max=1.0)
        self.num_timesteps: int = len(log_alpha_bar)
        start = torch.zeros(1, dtype=torch.float64)
        self.log_alpha_bar = torch.cat([start, log_alpha_bar])

    @property
    def betas(self) -> Tensor:
        """β_1, ..., β_N, shape (N,), float64."""
        return -torch.expm1(self.log_alpha_bar.diff())

    def _log_alpha_bar_at(self, t: Tensor) -> Tensor:
        return _interpolate(self.log_alpha_bar, t * self.num_timesteps)

    @override
    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(0.5 * self._log_alpha_bar_at(t))

    @override
    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(self._log_alpha_bar_at(t)))

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """The time of log ᾱ = −log(1 + 1/SNR) in the table."""
        log_alpha_bar = logsigmoid(log_snr.to(torch.float64))
        return self._within(_position(-self.log_alpha_bar, -log_alpha_bar) / self.num_timesteps)


class SMLDProcess(ForwardProcess):
    """Song & Ermon (2019, 2020): x_i = x0 + σ_i ε, σ_1 < ... < σ_N geometric or given.

    Args:
        num_timesteps: Number N of levels, at least 2.
        sigma_min: σ_1, positive.
        sigma_max: σ_N.
        sigmas: A custom table instead, increasing.
    """

    def __init__(
        self,
        num_timesteps: int = 1000,
        sigma_min: float = 0.01,
        sigma_max: float = 50.0,
        sigmas: Sequence[float] | None = None,
    ) -> None:
        if sigmas is None and num_timesteps < 2:
            raise ConfigurationError(f"num_timesteps={num_timesteps}: at least 2 are needed")
        if sigmas is None:
            check_sigmas(sigma_min, sigma_max)
            ends = math.log(sigma_min), math.log(sigma_max)
            log_sigma = torch.linspace(*ends, num_timesteps, dtype=torch.float64)
        else:
            log_sigma = torch.tensor(sigmas, dtype=torch.float64).log()
        if log_sigma.ndim != 1 or len(log_sigma) < 2 or not (log_sigma.diff() > 0).all():
            raise ConfigurationError("sigmas: at least two numbers are needed, positive and increasing")
        super().__init__(t_min=1 / len(log_sigma), t_max=1.0)
        self.num_timesteps: int = len(log_sigma)
        self.log_sigma = log_sigma

    @override
    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    @override
    def sigma(self, t: Tensor) -> Tensor:
        return torch.exp(_interpolate(self.log_sigma, t * self.num_timesteps - 1))

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """The time of log σ = −½ log SNR in the table."""
        log_sigma = -0.5 * log_snr.to(torch.float64)
        return self._within((_position(self.log_sigma, log_sigma) + 1) / self.num_timesteps)


def _beta_table(num_timesteps: int, schedule: str) -> Tensor:
    if num_timesteps < 1:
        raise ConfigurationError(f"num_timesteps={num_timesteps}: must be at least 1")
    scale = 1000 / num_timesteps
    if schedule == "linear":
        return scale * torch.linspace(1e-4, 0.02, num_timesteps, dtype=torch.float64)
    if schedule == "scaled_linear":
        return scale * torch.linspace(0.00085**0.5, 0.012**0.5, num_timesteps, dtype=torch.float64) ** 2
    if schedule == "cosine":
        angle = (
            (torch.arange(num_timesteps + 1, dtype=torch.float64) / num_timesteps + 0.008)
            / 1.008
            * math.pi
            / 2
        )
        return (1 - (angle[1:].cos() / angle[:-1].cos()) ** 2).clamp(max=0.999)
    raise ConfigurationError(f"schedule={schedule!r}: linear, scaled_linear or cosine")


def _kept(keep: Sequence[int], num_timesteps: int) -> Tensor:
    indices = torch.tensor(list(keep), dtype=torch.long)
    if len(indices) < 2 or indices[0] < 1 or indices[-1] > num_timesteps or not (indices.diff() > 0).all():
        raise ConfigurationError(f"keep: at least two increasing levels from 1 to {num_timesteps} are needed")
    return indices - 1


def _interpolate(table: Tensor, position: Tensor) -> Tensor:
    """Piecewise linear in the index, continued beyond the ends; the slope at an entry is the one below it."""
    table = table.to(position.device)
    below = (position.detach() - 1e-9).ceil().long().sub(1).clamp(0, len(table) - 2)
    share = position - below
    return table[below] * (1 - share) + table[below + 1] * share


def _position(table: Tensor, value: Tensor) -> Tensor:
    """The inverse of `_interpolate` for an increasing table: the position at which it has the value."""
    table = table.to(value.device)
    below = torch.bucketize(value.contiguous(), table).sub(1).clamp(0, len(table) - 2)
    return below + (value - table[below]) / (table[below + 1] - table[below])
