"""Training times and sampling grids.

A time sampler is the quantile function of a density p(t) on [t_min, t_max]. There are two kinds. *Unbiased*
ones do not change the expected loss under uniform t, by the weight

    w(t) = 1/((t_max − t_min) p(t))   (on N levels 1/(N p_i))               (10)

and change only its variance. The others, such as `LogNormalTime`, change the loss on purpose: their weight
is 1.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from scorelight.errors import ConfigurationError
from scorelight.processes.base import ForwardProcess
from scorelight.rng import Generators, rand
from scorelight.storage.component import Component

__all__ = [
    "TimeGrid",
    "TimeSampler",
    "log_sigma_range",
    "log_snr_ends",
    "resolve_num_timesteps",
    "timestep_index",
    "timestep_times",
]


class TimeSampler(Component, nn.Module, ABC):
    """Distribution of the training time."""

    unbiased: bool = True
    """Whether the weights (10) compensate for the density."""
    gathers_losses: bool = False
    """Whether every training step gathers the losses of all processes."""

    @abstractmethod
    def quantile(self, process: ForwardProcess, u: Tensor) -> tuple[Tensor, Tensor]:
        """Times and weights at uniform numbers u in [0, 1), all of shape (num,), float64."""

    def forward(
        self, process: ForwardProcess, num: int, *, generator: Generators, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Draw `num` times and their weights, both of shape (num,), float64."""
        return self.quantile(process, rand(num, generator, device))

    def num_timesteps_of(self, process: ForwardProcess) -> int | None:
        """N if the times are N timesteps, equally spaced or those of a table; None in continuous time."""
        return None

    def observe(self, process: ForwardProcess, t: Tensor, value: Tensor) -> None:
        """Learn from the unweighted losses at the times t of a training step; both of shape (B,)."""


class TimeGrid(Component, ABC):
    """The times of a sampler's steps, from t_max down to t_min of the process."""

    @abstractmethod
    def __call__(self, process: ForwardProcess, num_times: int) -> Tensor:
        """Decreasing times, shape (num_times,), float64; from t_max to t_min unless documented otherwise."""


def resolve_num_timesteps(process: ForwardProcess, num_timesteps: int | None, owner: str) -> int:
    """The given number of timesteps, else the process's.

    Raises:
        ConfigurationError: If neither is given, or there are fewer than two.
    """
    number = process.num_timesteps if num_timesteps is None else num_timesteps
    if number is None:
        raise ConfigurationError(
            f"{owner}: {type(process).__name__} is in continuous time; give {owner} num_timesteps, or use a "
            "process with a table (DDPMProcess, SMLDProcess)"
        )
    if number < 2:
        raise ConfigurationError(f"{owner}: num_timesteps={number}: at least 2 are needed")
    return number


def timestep_times(process: ForwardProcess, num_timesteps: int, device: torch.device) -> Tensor:
    """The timesteps, increasing, shape (num_timesteps,), float64: i/N for a table of N entries."""
    return torch.linspace(process.t_min, process.t_max, num_timesteps, dtype=torch.float64, device=device)


def timestep_index(process: ForwardProcess, num_timesteps: int, t: Tensor) -> Tensor:
    """Index of the timestep nearest to each time, from 0."""
    share = (t.double() - process.t_min) / (process.t_max - process.t_min)
    return (share * (num_timesteps - 1)).round().long()


def log_snr_ends(process: ForwardProcess, device: torch.device) -> Tensor:
    """Log SNR at t_min and t_max, shape (2,)."""
    # not torch.tensor, which copies from the host and waits for the device
    ends = torch.linspace(process.t_min, process.t_max, 2, dtype=torch.float64, device=device)
    return process.log_snr(ends)


def log_sigma_range(process: ForwardProcess) -> tuple[float, float]:
    """Log σ/α at t_min and t_max, in floats; of a process without parameters they are computed once."""
    fixed = next(process.parameters(), None) is None
    return (_log_sigma_range if fixed else _log_sigma_range.__wrapped__)(
        process, process.t_min, process.t_max
    )


@functools.lru_cache(maxsize=16)
def _log_sigma_range(process: ForwardProcess, t_min: float, t_max: float) -> tuple[float, float]:
    first, last = (-0.5 * process.log_snr(torch.tensor([t_min, t_max], dtype=torch.float64))).tolist()
    return first, last
