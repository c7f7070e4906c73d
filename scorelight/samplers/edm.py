"""The sampler of Karras et al. (2022), for any process: σ/α is their σ, x/α their x."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor
from typing_extensions import override

from scorelight.errors import ConfigurationError
from scorelight.processes.base import ForwardProcess
from scorelight.samplers.base import BoundDenoiser, Levels, NoiseSource, Sampler
from scorelight.times import KarrasGrid, TimeGrid

__all__ = ["EDMSampler"]


class EDMSampler(Sampler):
    """Stochastic churn and Heun's step in σ/α: Karras et al. (2022), algorithm 2; algorithm 1 without churn.

    With x̄ = x/α and σ̄ = σ/α, in which every process is variance exploding and dx̄/dσ̄ = ε̂:

        σ̂ = (1 + γ) σ̄_t,   x̂ = x̄ + sqrt(σ̂² − σ̄_t²) S_noise z
        x' = x̂ + (σ̄_s − σ̂) ε̂(x̂, σ̂)
        x̄_s = x̂ + (σ̄_s − σ̂) [ε̂(x̂, σ̂) + ε̂(x', σ̄_s)]/2

    Noise and step both preserve the marginals of the process, so churn does not lower the order. Two
    differences: σ̂ is at most σ̄ at t_max, where the process ends, and no noise is added before the last step,
    the posterior mean (in theirs it is, for S_tmin ≤ σ_min).

    Args:
        num_steps: Steps in all, two network evaluations each, one for the last with `denoise`.
        grid: The times (default `KarrasGrid`, on a table its `NearestLevels`).
        denoise: Whether the last step is the posterior mean at t_min, which is their step to σ = 0.
        s_churn: Their S_churn, not negative: γ = min(S_churn/num_steps, √2 − 1); 0 is deterministic.
        s_tmin: Smallest σ̄ at which noise is added.
        s_tmax: Largest σ̄ at which noise is added.
        s_noise: Their S_noise, the standard deviation of z.
    """

    order = 2
    default_grid = KarrasGrid()

    def __init__(
        self,
        num_steps: int = 18,
        grid: TimeGrid | None = None,
        denoise: bool = True,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = math.inf,
        s_noise: float = 1.0,
    ) -> None:
        super().__init__(num_steps, grid, denoise)
        if not (s_churn >= 0 and s_noise >= 0 and s_tmin <= s_tmax):
            raise ConfigurationError(
                f"EDMSampler: s_churn={s_churn}, s_noise={s_noise}, s_tmin={s_tmin}, s_tmax={s_tmax}: "
                "none may be negative, and s_tmin <= s_tmax"
            )
        self.s_churn = s_churn
        self.s_tmin = s_tmin
        self.s_tmax = s_tmax
        self.s_noise = s_noise

    @override
    def trajectory(
        self, predict: BoundDenoiser, x: Tensor, levels: Levels, noise: NoiseSource
    ) -> Iterator[Tensor]:
        for (t, s), hat in zip(pairwise(levels), self._churned(predict.process, levels), strict=True):
            added = (hat.sigma / hat.alpha) ** 2 - (t.sigma / t.alpha) ** 2
            x = x * (hat.alpha / t.alpha)  # hat.alpha times x̂, and at s, s.alpha times it
            if added > 0:
                x = x + hat.alpha * self.s_noise * math.sqrt(added) * noise(x)
            h = s.alpha * (s.sigma / s.alpha - hat.sigma / hat.alpha)
            d = predict(x, hat).epsilon
            x = x * (s.alpha / hat.alpha)
            d = d + predict(torch.add(x, d, alpha=h), s).epsilon
            x = torch.add(x, d, alpha=h / 2)
            yield x

    def _churned(self, process: ForwardProcess, levels: Levels) -> Levels:
        """The level of σ̂ for each step: the level of its start where no noise is added."""
        gamma = min(self.s_churn / self.num_steps, math.sqrt(2) - 1)
        ratios = [level.sigma / level.alpha for level in levels[:-1]]
        churned = [self.s_tmin <= r <= self.s_tmax and gamma > 0 for r in ratios]
        if not any(churned):
            return levels[:-1]
        hats = torch.tensor([(1 + gamma) * r for r in ratios], dtype=torch.float64)
        there = process.grid_levels(process.time_of_log_snr(-2 * hats.log()))
        return [hat if c else level for c, hat, level in zip(churned, there, levels, strict=False)]
