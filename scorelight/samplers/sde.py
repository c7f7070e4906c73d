"""Solvers of the reverse SDE dx = [f x − g² ∇log p_t(x)] dt + g dw̄ (Anderson, 1982; Song et al., eq. 6)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor
from typing_extensions import override

from scorelight.samplers.ancestral import noise_lost
from scorelight.samplers.base import BoundDenoiser, Levels, NoiseSource, Sampler

__all__ = ["EulerMaruyama", "ReverseDiffusion"]


class EulerMaruyama(Sampler):
    """x_s = x_t + (s − t) [f x_t − g² ∇log p_t(x_t)] + g sqrt(t − s) z.

    The step is the difference of the grid's own times, so any number of steps and any grid is right.

    Args:
        num_steps: Steps in all, one network evaluation each.
        grid: The times (default `UniformGrid`, on a table its `NearestLevels`).
        denoise: Whether the last step is the posterior mean at t_min.
    """

    order = 1

    @override
    def trajectory(
        self, predict: BoundDenoiser, x: Tensor, levels: Levels, noise: NoiseSource
    ) -> Iterator[Tensor]:
        for t, s in pairwise(levels):
            h = s.time - t.time
            drift = t.f * x - t.g2 * predict(x, t).score
            x = x + h * drift + (-h * t.g2) ** 0.5 * noise(x)
            yield x


class ReverseDiffusion(Sampler):
    """The forward steps themselves, discretised, run backwards (Song et al., 2021, eq. 46 and app. E).

    The transition (8) from s to t is x_t = x_s + F(x_s) + G z with F(x) = (a − 1) x, a = α_t/α_s, and
    G² = σ_t² − a² σ_s². Its reverse, for any process and any two levels:

        x_s = x_t − F(x_t) + G² ∇log p_t(x_t) + G z.

    For DDPM's table a = √(1 − β) and G² = β: their eq. 46; for VE it is the predictor of their algorithm 2.

    Args:
        num_steps: Steps in all, one network evaluation each.
        grid: The times (default `UniformGrid`, on a table its `NearestLevels`).
        denoise: Whether the last step is the posterior mean at t_min.
    """

    order = 1

    @override
    def trajectory(
        self, predict: BoundDenoiser, x: Tensor, levels: Levels, noise: NoiseSource
    ) -> Iterator[Tensor]:
        for t, s in pairwise(levels):
            a = t.alpha / s.alpha
            g2 = t.sigma**2 * noise_lost(t, s)
            x = (2 - a) * x + g2 * predict(x, t).score + g2**0.5 * noise(x)
            yield x
