"""Diffusion posterior sampling."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor
from typing_extensions import override

from scorelight.errors import ConfigurationError
from scorelight.inverse.base import PosteriorSampler
from scorelight.inverse.measurement import Measurement
from scorelight.samplers.ancestral import ancestral_step
from scorelight.samplers.base import BoundDenoiser, Levels, NoiseSource
from scorelight.times import TimeGrid

__all__ = ["DPS"]


class DPS(PosteriorSampler):
    """An ancestral step, then x_s ← x_s − ζ ∇_{x_t} ‖y − A(x̂0(x_t))‖ (Chung et al., 2023, algorithm 1).

    The norm is that of each example, of (y − A(x̂0))/σ_y relative to the mean noise if the noise differs.
    States are scaled to the length 1 = √(α² + σ²) for the step, which VP's have, so that ζ has one meaning
    for every process. A may be any function.

    Its law is not p(x0 | y), also for Gaussian data.

    Args:
        measurement: A and σ_y.
        num_steps: Steps in all, one network evaluation and its gradient each.
        grid: The times (default `UniformGrid`, on a table its `NearestLevels`).
        denoise: Whether the last step is the posterior mean at t_min.
        step: ζ.
    """

    needs_linear = False

    def __init__(
        self,
        measurement: Measurement,
        num_steps: int = 1000,
        grid: TimeGrid | None = None,
        denoise: bool = True,
        step: float = 1.0,
    ) -> None:
        super().__init__(measurement, num_steps, grid, denoise)
        if not step > 0:
            raise ConfigurationError(f"DPS: step={step}: must be positive")
        self.step = step

    @override
    def trajectory(
        self, predict: BoundDenoiser, x: Tensor, levels: Levels, noise: NoiseSource
    ) -> Iterator[Tensor]:
        y = predict.cond["measurement"].clone()
        weight = self.measurement.relative_weight(y)
        for t, s in pairwise(levels):
            with torch.inference_mode(False), torch.enable_grad():
                x = x.detach().clone().requires_grad_()
                pred = predict(x, t)
                distance = ((y - self.measurement.operator(pred.x0)) * weight).flatten(1).norm(dim=1)
                (gradient,) = torch.autograd.grad(distance.sum(), x)
                mean, deviation = ancestral_step(pred, t, s)
            x = mean.detach() + deviation * noise(x.detach())
            x = x - self.step * t.length * s.length * gradient
            yield x
