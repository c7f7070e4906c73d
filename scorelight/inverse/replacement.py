"""Replacing what is measured of the state by the measurement, at the state's own noise level."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor
from typing_extensions import override

from scorelight.errors import ConfigurationError
from scorelight.inverse.base import PosteriorSampler
from scorelight.inverse.measurement import Measurement
from scorelight.inverse.operators import is_measured
from scorelight.processes.base import NoiseLevel
from scorelight.samplers.ancestral import ancestral_step, diffuse
from scorelight.samplers.base import BoundDenoiser, Levels, NoiseSource
from scorelight.times import TimeGrid

__all__ = ["RePaint", "Replacement"]


class Replacement(PosteriorSampler):
    """x_s ← x_s − A⁺A x_s + A⁺(α_s y + noise) after each ancestral step (Song et al., 2021, appendix I.2).

    The measured part has the variance σ_s²: α_s² σ_y²/s² of it, at a singular value s, is the measurement's,
    and is not added again. The last step is E[x0 | x] of the unknown part; the measured part is y's.

    Its law is not p(x0 | y), whatever the model: the unknown part is drawn as if the noise of the measured
    part were no information.

    Args:
        measurement: A and σ_y.
        num_steps: Steps in all, one network evaluation each.
        grid: The times (default `UniformGrid`, on a table its `NearestLevels`).
        denoise: Whether the last step is the posterior mean at t_min.
    """

    needs_one_noise = True

    @override
    def trajectory(
        self, predict: BoundDenoiser, x: Tensor, levels: Levels, noise: NoiseSource
    ) -> Iterator[Tensor]:
        inverse = self.operator.pseudo_inverse(predict.cond["measurement"])
        for t, s in pairwise(levels):
            mean, deviation = ancestral_step(predict(x, t), t, s)
            x = mean + deviation * noise(x)
            x = self._replaced(x, s.alpha * inverse) + self._fresh(noise(x), s)
            yield x

    def _replaced(self, x: Tensor, inverse: Tensor) -> Tensor:
        """The measured part of x replaced by that of the measurement."""
        return x - self.operator.measured_part(x) + inverse

    def _fresh(self, noise: Tensor, level: NoiseLevel[float]) -> Tensor:
        """The noise that the measured part lacks at a level."""
        of_y = level.alpha * self.noise_of_measurement

        def missing(s: Tensor) -> Tensor:
            known = is_measured(s)
            variance = level.sigma**2 - (of_y / torch.where(known, s, 1)) ** 2
            return known * variance.clamp(min=0).sqrt()

        return self.operator.spectral(noise, missing)

    @override
    def states(
        self, predict: BoundDenoiser, x: Tensor, levels: Levels, noise: NoiseSource
    ) -> Iterator[Tensor]:
        for state in self.trajectory(predict, x, levels, noise):
            x = state
            yield x
        if self.denoise:
            inverse = self.operator.pseudo_inverse(predict.cond["measurement"])
            yield self._replaced(predict(x, levels[-1]).x0, inverse)


class RePaint(Replacement):
    """`Replacement` that goes back and forth: Lugmayr et al. (2022), algorithm 1 and appendix B.

    After every `jump` steps the state is diffused back over them and denoised again, so that the unknown part
    can come to agree with the measured one.

    Args:
        measurement: A and σ_y.
        num_steps: Steps in all, with one network evaluation each time that it is taken.
        grid: The times (default `UniformGrid`, on a table its `NearestLevels`).
        denoise: Whether the last step is the posterior mean at t_min.
        repeats: How often each stretch is taken, r of the paper.
        jump: Steps of a stretch, j of the paper.
    """

    def __init__(
        self,
        measurement: Measurement,
        num_steps: int = 100,
        grid: TimeGrid | None = None,
        denoise: bool = True,
        repeats: int = 10,
        jump: int = 10,
    ) -> None:
        super().__init__(measurement, num_steps, grid, denoise)
        if repeats < 1 or jump < 1:
            raise ConfigurationError(f"RePaint: repeats={repeats}, jump={jump}: at least 1")
        self.repeats = repeats
        self.jump = jump

    @override
    def trajectory(
        self, predict: BoundDenoiser, x: Tensor, levels: Levels, noise: NoiseSource
    ) -> Iterator[Tensor]:
        for begin in range(0, len(levels) - 1, self.jump):
            stretch = levels[begin : begin + self.jump + 1]
            for _ in range(self.repeats - 1):
                *_, x = super().trajectory(predict, x, stretch, noise)
                x = diffuse(x, stretch[-1], stretch[0], noise)
            for state in super().trajectory(predict, x, stretch, noise):
                x = state
                yield x
