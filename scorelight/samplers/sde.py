"""Solvers of the reverse SDE dx = [f x − g² ∇log p_t(x)] dt + g dw̄ (Anderson, 1982; Song et al., eq. 6)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

from scorelight.samplers.base import Levels, Noise, Predict, Sampler

__all__ = ["EulerMaruyama"]


class EulerMaruyama(Sampler):
    """x_s = x_t + (s − t) [f x_t − g² ∇log p_t(x_t)] + g sqrt(t − s) z.

    The step is the difference of the grid's own times, so any number of steps and any grid is right.

    Args:
        num_steps: Steps in all, one network evaluation each.
        grid: Where the times lie (default `UniformGrid`).
        denoise: Whether the last step is the posterior mean at t_min.
    """

    order = 1

    def trajectory(self, predict: Predict, x: Tensor, levels: Levels, noise: Noise) -> Iterator[Tensor]:
        """One evaluation a step."""
        for t, s in pairwise(levels):
            h = s.t - t.t
            drift = t.f * x - t.g2 * predict(x, t).score
            x = x + h * drift + (-h * t.g2) ** 0.5 * noise(x)
            yield x
