"""Classical solvers of the probability flow dx/dt = α' x0 + σ' ε (Song et al., 2021, eq. 13), steps in t."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor
from typing_extensions import override

from scorelight.samplers.base import BoundDenoiser, Levels, NoiseSource, Sampler
from scorelight.times import LogSNRGrid, TimeGrid

__all__ = ["Euler", "Heun"]


class Euler(Sampler):
    """Euler's method: x_s = x_t + (s − t) dx/dt.

    Args:
        num_steps: Steps in all, one network evaluation each.
        grid: The times (default `LogSNRGrid`, on a table its `NearestLevels`).
        denoise: Whether the last step is the posterior mean at t_min.
    """

    order = 1
    default_grid = LogSNRGrid()

    def __init__(self, num_steps: int = 50, grid: TimeGrid | None = None, denoise: bool = True) -> None:
        super().__init__(num_steps, grid, denoise)

    @override
    def trajectory(
        self, predict: BoundDenoiser, x: Tensor, levels: Levels, noise: NoiseSource
    ) -> Iterator[Tensor]:
        for t, s in pairwise(levels):
            x = torch.add(x, predict(x, t).velocity, alpha=s.time - t.time)
            yield x


class Heun(Sampler):
    """Heun's method (explicit trapezoidal rule), as in Karras et al. (2022), algorithm 1, in t.

    Args:
        num_steps: Steps in all, two network evaluations each, one for the last with `denoise`.
        grid: The times (default `LogSNRGrid`, on a table its `NearestLevels`).
        denoise: Whether the last step is the posterior mean at t_min.
    """

    order = 2
    default_grid = LogSNRGrid()

    def __init__(self, num_steps: int = 25, grid: TimeGrid | None = None, denoise: bool = True) -> None:
        super().__init__(num_steps, grid, denoise)

    @override
    def trajectory(
        self, predict: BoundDenoiser, x: Tensor, levels: Levels, noise: NoiseSource
    ) -> Iterator[Tensor]:
        for t, s in pairwise(levels):
            h = s.time - t.time
            d = predict(x, t).velocity
            d = d + predict(torch.add(x, d, alpha=h), s).velocity
            x = torch.add(x, d, alpha=h / 2)
            yield x
