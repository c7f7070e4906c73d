"""Langevin dynamics at fixed levels, alone, annealed, or as the corrector of another sampler.

    x ← x + h ∇log p_t(x) + √(2h) z                                        (19)

has p_t as its stationary density for h → 0 (Welling & Teh, 2011).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor
from typing_extensions import override

from scorelight.errors import ConfigurationError
from scorelight.processes.base import ForwardProcess, NoiseLevel, Scalar
from scorelight.samplers.ancestral import AncestralSampler
from scorelight.samplers.base import BoundDenoiser, Levels, NoiseSource, Sampler
from scorelight.storage.component import Component
from scorelight.times import FixedTime, LogSNRGrid, TimeGrid

__all__ = [
    "AnnealedCorrector",
    "AnnealedLangevin",
    "Corrector",
    "LangevinCorrector",
    "LangevinDynamics",
    "PredictorCorrector",
]


def _step(score: Tensor, x: Tensor, h: Scalar, z: Tensor) -> Tensor:
    """Equation (19)."""
    return x + h * score + (2 * h) ** 0.5 * z


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ConfigurationError(f"{name}={value}: must be positive")


def _check_corrector(snr: float, num_steps: int) -> None:
    _positive(snr=snr)
    if num_steps < 0:
        raise ConfigurationError(f"num_steps={num_steps}: must be at least 0")


class LangevinDynamics(Sampler):
    """Steps (19) at one noise level, for a model of one level, such as one trained with `FixedTime`.

    Args:
        num_steps: Steps in all, one network evaluation each.
        step: h.
        t: Time of the level, or
        sigma: its σ/α (default: t_min of the process).
        start_std: Standard deviation of the state to start from.
        denoise: Whether the last step is the posterior mean at the level.
    """

    remedy = "a smaller step, another sampler"

    def __init__(
        self,
        num_steps: int = 1000,
        step: float = 1e-4,
        t: float | None = None,
        sigma: float | None = None,
        start_std: float = 1.0,
        denoise: bool = True,
    ) -> None:
        super().__init__(num_steps, _OneLevel(t, sigma), denoise)
        _positive(step=step, start_std=start_std)
        self.step = step
        self.start_std = start_std

    @override
    def trajectory(
        self, predict: BoundDenoiser, x: Tensor, levels: Levels, noise: NoiseSource
    ) -> Iterator[Tensor]:
        x = x * (self.start_std / levels[0].sigma)
        for level in levels[1:]:
            x = _step(predict(x, level).score, x, self.step, noise(x))
            yield x


class _OneLevel(TimeGrid):
    """The same time at every step."""

    def __init__(self, t: float | None, sigma: float | None) -> None:
        self.time = None if t is None and sigma is None else FixedTime(t, sigma)

    def __call__(self, process: ForwardProcess, num_times: int) -> Tensor:
        if self.time is None:
            return torch.full((num_times,), process.t_min, dtype=torch.float64)
        return self.time.quantile(process, torch.zeros(num_times, dtype=torch.float64))[0]


class AnnealedLangevin(Sampler):
    """Langevin dynamics at every level of the grid in turn: Song & Ermon (2019), algorithm 1.

    The step is h = ε σ_t² α_L²/σ_L² with the last level L; for VE it is their ε σ_i²/σ_L². Between levels
    the state is scaled by α_s/α_t. ``scorelight advise`` suggests levels and ε. With `denoise` it ends as in
    Song & Ermon (2020), sec. 5.

    Args:
        num_steps: Levels; without `denoise` there is one more.
        grid: The levels (default `LogSNRGrid`, geometric; on a table its `NearestLevels`).
        denoise: Whether the last step is the posterior mean at t_min.
        steps_per_level: Their T, network evaluations per level.
        step: Their ε.
        corrector: Takes the steps instead, T times at each level, with a rule of its own for their size, such
            as `LangevinCorrector` (the "corrector only" of Song et al., 2021, table 1).
    """

    default_grid = LogSNRGrid()
    remedy = "a smaller step, another sampler"

    def __init__(
        self,
        num_steps: int = 232,
        grid: TimeGrid | None = None,
        denoise: bool = True,
        steps_per_level: int = 5,
        step: float = 6.2e-6,
        corrector: Corrector | None = None,
    ) -> None:
        super().__init__(num_steps, grid, denoise)
        _positive(steps_per_level=steps_per_level, step=step)
        self.steps_per_level = steps_per_level
        self.step = step
        self.corrector = corrector

    def trajectory(
        self, predict: BoundDenoiser, x: Tensor, levels: Levels, noise: NoiseSource
    ) -> Iterator[Tensor]:
        """`steps_per_level` evaluations at every level, the first included."""
        correct = self.corrector or self._song_and_ermon(levels[-1])

        def anneal(x: Tensor, level: NoiseLevel[float]) -> Tensor:
            for _ in range(self.steps_per_level):
                x = correct(predict, x, level, noise)
            return x

        x = anneal(x, levels[0])
        for t, s in pairwise(levels):
            x = anneal(x * (s.alpha / t.alpha), s)
            yield x

    def _song_and_ermon(self, last: NoiseLevel[float]) -> Corrector:
        """Steps of h = ε σ_t² α_L²/σ_L²."""
        unit = self.step * last.snr
        if not unit < 2:
            raise ConfigurationError(
                f"AnnealedLangevin: step={self.step}: diverges from {2 / last.snr:.3g} on, twice the "
                "(σ/α)² of the last level; take a smaller step"
            )
        return AnnealedCorrector((unit / 2) ** 0.5)


class Corrector(Component, ABC):
    """Moves a state closer to the distribution p_t; see `PredictorCorrector`."""

    remedy: str = "a smaller corrector.snr"
    """What to change in this corrector if samples are not finite."""

    @abstractmethod
    def __call__(
        self, predict: BoundDenoiser, x: Tensor, level: NoiseLevel[float], noise: NoiseSource
    ) -> Tensor:
        """The corrected state at the level."""


class LangevinCorrector(Corrector):
    """Steps (19) with h = 2 (r ‖z‖/‖∇log p_t(x)‖)²: Song et al. (2021), algorithms 4 and 5, with α_i = 1.

    The norms are taken for each example, so that no sample depends on its batch. This needs many dimensions,
    where norms hardly vary: in few, use `AnnealedCorrector`. Where the score is 0 the step is infinite, and
    `PredictorCorrector` raises an error.

    Args:
        snr: Their r, "signal-to-noise ratio"; useful from 0.05 to 0.2.
        num_steps: Steps at a level, one network evaluation each; 0 for no correction.
    """

    remedy = "AnnealedCorrector (the step of LangevinCorrector is infinite where the score is 0)"

    def __init__(self, snr: float = 0.16, num_steps: int = 1) -> None:
        _check_corrector(snr, num_steps)
        self.snr = snr
        self.num_steps = num_steps

    @override
    def __call__(
        self, predict: BoundDenoiser, x: Tensor, level: NoiseLevel[float], noise: NoiseSource
    ) -> Tensor:
        for _ in range(self.num_steps):
            score, z = predict(x, level).score, noise(x)
            x = _step(score, x, 2 * (self.snr * _norm(z) / _norm(score)) ** 2, z)
        return x


class AnnealedCorrector(Corrector):
    """Steps (19) with h = 2 (r σ_t)², which depends on the level alone, in any number of dimensions.

    It is Song & Ermon's (2019) step, r² = ε/(2σ_L²), in the form of Song et al.'s (2021) "ald" corrector.

    Args:
        snr: r.
        num_steps: Steps at a level, one network evaluation each; 0 for no correction.
    """

    def __init__(self, snr: float = 0.16, num_steps: int = 1) -> None:
        _check_corrector(snr, num_steps)
        self.snr = snr
        self.num_steps = num_steps

    @override
    def __call__(
        self, predict: BoundDenoiser, x: Tensor, level: NoiseLevel[float], noise: NoiseSource
    ) -> Tensor:
        for _ in range(self.num_steps):
            x = _step(predict(x, level).score, x, 2 * (self.snr * level.sigma) ** 2, noise(x))
        return x


def _norm(x: Tensor) -> Tensor:
    """Of each example, shape (B, 1, ...)."""
    norm: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return norm.reshape(-1, *(1,) * (x.ndim - 1))


class PredictorCorrector(Sampler):
    """A step of any sampler to the next level, then a correction there: Song et al. (2021), algorithm 1.

    Args:
        num_steps: Steps in all; with `denoise` the last is the posterior mean at t_min.
        grid: The times (default `UniformGrid`, on a table its `NearestLevels`).
        denoise: Whether the last step is the posterior mean at t_min.
        predictor: The sampler; its own number of steps, grid and last step are not used (default
            `AncestralSampler`).
        corrector: The correction at each level (default `LangevinCorrector`).
    """

    def __init__(
        self,
        num_steps: int = 1000,
        grid: TimeGrid | None = None,
        denoise: bool = True,
        predictor: Sampler | None = None,
        corrector: Corrector | None = None,
    ) -> None:
        super().__init__(num_steps, grid, denoise)
        self.predictor = predictor or AncestralSampler()
        self.corrector = corrector or LangevinCorrector()
        self.remedy = f"more steps, {self.corrector.remedy}, another sampler"

    def trajectory(
        self, predict: BoundDenoiser, x: Tensor, levels: Levels, noise: NoiseSource
    ) -> Iterator[Tensor]:
        """A step of the predictor and a correction, with the evaluations of both."""
        for t, s in pairwise(levels):
            (x,) = self.predictor.trajectory(predict, x, (t, s), noise)
            x = self.corrector(predict, x, s, noise)
            yield x
