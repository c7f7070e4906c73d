"""Grids of sampling times."""

from __future__ import annotations

import torch
from torch import Tensor

from scorelight.processes.base import ForwardProcess
from scorelight.times.base import TimeGrid, log_snr_ends

__all__ = ["LogSNRGrid", "UniformGrid"]


class UniformGrid(TimeGrid):
    """Equal steps in t."""

    def __call__(self, process: ForwardProcess, num_times: int) -> Tensor:
        """linspace(t_max, t_min)."""
        return torch.linspace(process.t_max, process.t_min, num_times, dtype=torch.float64)


class LogSNRGrid(TimeGrid):
    """Equal steps in log(α²/σ²) (Lu et al., 2022, "DPM-Solver", sec. 3.4)."""

    def __call__(self, process: ForwardProcess, num_times: int) -> Tensor:
        """Times of equally spaced log-SNR, the ends set to t_max and t_min exactly."""
        last, first = log_snr_ends(process, torch.device("cpu")).tolist()
        times = process.time_of_log_snr(torch.linspace(first, last, num_times, dtype=torch.float64))
        times[0], times[-1] = process.t_max, process.t_min
        return times
