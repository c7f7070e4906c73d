"""Grids of sampling times, from t_max to t_min."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from scorelight.errors import ConfigurationError
from scorelight.processes.base import ForwardProcess
from scorelight.times.base import (
    TimeGrid,
    log_snr_ends,
    resolve_num_timesteps,
    timestep_index,
    timestep_times,
)

__all__ = [
    "DiscreteGrid",
    "KarrasGrid",
    "LogSNRGrid",
    "MixedGrid",
    "NearestLevels",
    "QuadraticGrid",
    "TrailingGrid",
    "UniformGrid",
]

_CPU = torch.device("cpu")


class UniformGrid(TimeGrid):
    """Equal steps in t."""

    @override
    def __call__(self, process: ForwardProcess, num_times: int) -> Tensor:
        return torch.linspace(process.t_max, process.t_min, num_times, dtype=torch.float64)


class QuadraticGrid(TimeGrid):
    """Equal steps in √t (Song, Meng & Ermon, 2021, app. D.2; "time_quadratic" of Lu et al., 2022)."""

    def __call__(self, process: ForwardProcess, num_times: int) -> Tensor:
        """linspace(√t_max, √t_min)², the ends set to t_max and t_min exactly."""
        first, last = math.sqrt(process.t_max), math.sqrt(process.t_min)
        return _with_ends(process, torch.linspace(first, last, num_times, dtype=torch.float64) ** 2)


class LogSNRGrid(TimeGrid):
    """Equal steps in log(α²/σ²) (Lu et al., 2022, "DPM-Solver", sec. 3.4)."""

    def __call__(self, process: ForwardProcess, num_times: int) -> Tensor:
        """Times of equally spaced log-SNR, the ends set to t_max and t_min exactly."""
        last, first = log_snr_ends(process, _CPU).tolist()
        log_snr = torch.linspace(first, last, num_times, dtype=torch.float64)
        return _with_ends(process, process.time_of_log_snr(log_snr))


class KarrasGrid(TimeGrid):
    """Equal steps in (σ/α)^(1/ρ) (Karras et al., 2022, eq. 5, with σ/α for their σ).

    Args:
        rho: Their ρ, positive; 1 is uniform in σ/α, and ρ → ∞ uniform in log-SNR.
    """

    def __init__(self, rho: float = 7.0) -> None:
        if not 0 < rho < math.inf:
            raise ConfigurationError(f"KarrasGrid: rho={rho}: must be positive")
        self.rho = rho

    def __call__(self, process: ForwardProcess, num_times: int) -> Tensor:
        """Times of equally spaced (σ/α)^(1/ρ), the ends set to t_max and t_min exactly."""
        last, first = (-0.5 / self.rho * log_snr_ends(process, _CPU)).exp().tolist()
        root = torch.linspace(first, last, num_times, dtype=torch.float64)
        return _with_ends(process, process.time_of_log_snr(-2 * self.rho * root.log()))


class MixedGrid(TimeGrid):
    """Equal steps in a mean of log-SNR and √θ, with the angle θ = arctan(σ/α).

    With both scaled to go from 0 at t_max to 1 at t_min, the steps are equal in

        w log SNR + (1 − w) √θ.

    Equal steps in √θ are short where σ and α are of the same order, and long at low noise; under VP they are
    close to those of `QuadraticGrid`. Two processes with the same range of log-SNR get the same levels.

    Args:
        log_snr_share: The weight w: 1 is `LogSNRGrid`, 0 is uniform in √θ.
    """

    def __init__(self, log_snr_share: float = 0.75) -> None:
        if not 0 <= log_snr_share <= 1:
            raise ConfigurationError(f"MixedGrid: log_snr_share={log_snr_share}: must be from 0 to 1")
        self.log_snr_share = log_snr_share

    def __call__(self, process: ForwardProcess, num_times: int) -> Tensor:
        """The times at which the mean is i/(num_times − 1), the ends set to t_max and t_min exactly."""
        ends: list[float] = (-log_snr_ends(process, _CPU)).tolist()
        last, first = ends

        def root(log_nsr: Tensor) -> Tensor:
            return (log_nsr / 2).exp().atan().sqrt()

        low, high = root(torch.tensor([first, last], dtype=torch.float64)).unbind()

        def mean(log_nsr: Tensor) -> Tensor:
            a, b = (log_nsr - first) / (last - first), (root(log_nsr) - low) / (high - low)
            return self.log_snr_share * a + (1 - self.log_snr_share) * b

        shares = torch.linspace(0, 1, num_times, dtype=torch.float64)
        with torch.no_grad():
            return _with_ends(process, process.time_of_log_snr(-_invert(mean, shares, last, first)))


class TrailingGrid(TimeGrid):
    """Another grid without its last time: the last step is then the posterior mean, from one time earlier.

    With few steps, taking the posterior mean at more noise costs less than longer steps.

    Args:
        grid: The other grid (default `QuadraticGrid`).
    """

    def __init__(self, grid: TimeGrid | None = None) -> None:
        self.grid = grid or QuadraticGrid()

    def __call__(self, process: ForwardProcess, num_times: int) -> Tensor:
        """The first `num_times` of `num_times` + 1 times: they end before t_min."""
        return self.grid(process, num_times + 1)[:-1]


class NearestLevels(TimeGrid):
    """Another grid, on a table rounded to the nearest levels, the only ones a network was trained on.

    Equal levels are made distinct by rounding up. In continuous time it is the other grid itself, and also
    where there are more times than levels. The default grids of samplers are of this kind.

    Args:
        grid: The grid to round.
    """

    def __init__(self, grid: TimeGrid) -> None:
        self.grid = grid

    @override
    def __call__(self, process: ForwardProcess, num_times: int) -> Tensor:
        times, num = self.grid(process, num_times), process.num_timesteps
        if num is None or num_times > num:
            return times
        levels = (timestep_index(process, num, times) + 1).tolist()
        return timestep_times(process, num, _CPU)[torch.tensor(_distinct(levels[::-1], num)[::-1]) - 1]


class DiscreteGrid(TimeGrid):
    """Times that are levels 1, ..., N: a subsequence of those a model in discrete time was trained on.

    For n times, i = 0, ..., n − 1 from the least noise to the most:

    ========= ======================= ================================================================
    spacing   level                   from, to
    ========= ======================= ================================================================
    linspace  1 + (N − 1) i/(n − 1)   1 to N
    trailing  N (i + 1)/n             N/n to N                         (Lin et al., 2024, table 2)
    leading   1 + i ⌊N/n⌋             1 to below N, "linear" of        (Song, Meng & Ermon, 2021, app. D.2)
    quadratic 1 + ⌊0.8 N (i/(n−1))²⌋  1 to 0.8 N, "quadratic" of       (the same)
    ========= ======================= ================================================================

    Rounded to the nearest level, down where it says ⌊ ⌋; equal levels are made distinct by rounding up.
    Sampling starts from unit noise at the highest level and ends, with `denoise`, with the posterior mean at
    the lowest.

    Args:
        spacing: Name of the rule.
        levels: The levels themselves instead, increasing, each from 1 to N; as many as there are steps.
        num_timesteps: Number N of levels (default: the process's); in continuous time, equally spaced.
    """

    def __init__(
        self,
        spacing: Literal["linspace", "trailing", "leading", "quadratic"] = "trailing",
        levels: Sequence[int] | None = None,
        num_timesteps: int | None = None,
    ) -> None:
        if spacing not in ("linspace", "trailing", "leading", "quadratic"):
            raise ConfigurationError(
                f"DiscreteGrid: spacing={spacing!r}: linspace, trailing, leading or quadratic"
            )
        self.spacing = spacing
        self.levels = levels
        self.num_timesteps = num_timesteps

    def __call__(self, process: ForwardProcess, num_times: int) -> Tensor:
        """Times of the chosen levels, the highest first."""
        num = resolve_num_timesteps(process, self.num_timesteps, "DiscreteGrid")
        levels = _spaced(self.spacing, num, num_times) if self.levels is None else list(self.levels)
        if len(levels) != num_times or levels != sorted(set(levels)) or levels[0] < 1 or levels[-1] > num:
            raise ConfigurationError(
                f"DiscreteGrid: {num_times} increasing levels from 1 to {num} are needed, one for each "
                f"evaluation of the sampler; got {len(levels)}: {levels if len(levels) < 9 else '...'}"
            )
        return timestep_times(process, num, _CPU)[torch.tensor(levels[::-1]) - 1]


def _spaced(spacing: str, num: int, count: int) -> list[int]:
    """The levels of `DiscreteGrid`, the lowest first."""
    intervals = max(count - 1, 1)
    level: Callable[[int], int] = {
        "linspace": lambda i: 1 + round((num - 1) * i / intervals),
        "trailing": lambda i: round(num * (i + 1) / count),
        "leading": lambda i: 1 + i * (num // count),
        "quadratic": lambda i: 1 + math.floor(0.8 * num * (i / intervals) ** 2),
    }[spacing]
    return _distinct([level(i) for i in range(count)], num)


def _distinct(levels: Sequence[int], num: int) -> list[int]:
    """Increasing levels: equal ones are moved up, and then down again if above `num`."""
    moved = [0]
    for level in levels:
        moved.append(max(level, moved[-1] + 1))
    return [min(level, num - len(levels) + i) for i, level in enumerate(moved)][1:]


def _with_ends(process: ForwardProcess, times: Tensor) -> Tensor:
    """The times without the rounding error of the first and the last."""
    times[0], times[-1] = process.t_max, process.t_min
    return times


def _invert(function: Callable[[Tensor], Tensor], values: Tensor, low: float, high: float) -> Tensor:
    """The arguments at which a decreasing function on [low, high] has the values.

    Six subdivisions into 16 parts, then linear interpolation.
    """
    left, width = torch.full_like(values, low), high - low
    inner = torch.arange(1, 16, dtype=values.dtype)[:, None]
    for _ in range(6):
        width /= 16
        left = left + width * (function(left + width * inner) > values).sum(0)
    above, below = function(torch.stack([left, left + width])).unbind()
    return left + width * (above - values) / (above - below)
