"""Times: drawn at random for training (`TimeSampler`), laid out on a grid for sampling (`TimeGrid`)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from scorelight.component import Component
from scorelight.processes.base import ForwardProcess
from scorelight.seeding import Generators, rand

__all__ = ["LogSNRGrid", "TimeGrid", "TimeSampler", "UniformGrid", "UniformTime"]


class TimeSampler(Component, ABC):
    """Distribution of the training time."""

    @abstractmethod
    def __call__(
        self, process: ForwardProcess, num: int, *, generator: Generators, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Draw times and the weights that go with them, both of shape (num,), float64.

        A sampler that is meant to leave the expected loss as under uniform t returns the weights
        1/((t_max − t_min) p(t)); one that is meant to change it returns ones.
        """


class UniformTime(TimeSampler):
    """t ~ U[t_min, t_max] of the process."""

    def __call__(
        self, process: ForwardProcess, num: int, *, generator: Generators, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Draw the times; all weights are 1."""
        u = rand(num, generator, device)
        return process.t_min + (process.t_max - process.t_min) * u, torch.ones_like(u)


class TimeGrid(Component, ABC):
    """Rule that lays out the times of a sampler, from t_max down to t_min of the process."""

    @abstractmethod
    def __call__(self, process: ForwardProcess, num_times: int) -> Tensor:
        """Decreasing times, shape (num_times,), float64; the first is t_max, the last t_min."""


class UniformGrid(TimeGrid):
    """Equal steps in t."""

    def __call__(self, process: ForwardProcess, num_times: int) -> Tensor:
        """linspace(t_max, t_min)."""
        return torch.linspace(process.t_max, process.t_min, num_times, dtype=torch.float64)


class LogSNRGrid(TimeGrid):
    """Equal steps in log(α²/σ²) (Lu et al., 2022, "DPM-Solver", sec. 3.4)."""

    def __call__(self, process: ForwardProcess, num_times: int) -> Tensor:
        """Times of equally spaced log-SNR, the ends set to t_max and t_min exactly."""
        ends = torch.tensor([process.t_max, process.t_min], dtype=torch.float64)
        first, last = process.evaluate(ends).log_snr.tolist()
        times = process.time_of_log_snr(torch.linspace(first, last, num_times, dtype=torch.float64))
        times[0], times[-1] = process.t_max, process.t_min
        return times
