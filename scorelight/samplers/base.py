"""How noise turns into data.

A sampler walks a `TimeGrid` from t_max to t_min. Its `trajectory` is the paper's loop and nothing
else; this base scales the unit noise to the prior, and takes the last step to clean data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from scorelight.component import Component
from scorelight.denoiser import Denoiser, Prediction
from scorelight.errors import ConfigurationError
from scorelight.processes.base import ForwardProcess, NoiseLevel
from scorelight.seeding import Generators, randn_like
from scorelight.times import NearestLevels, TimeGrid, UniformGrid

__all__ = ["Levels", "Noise", "Predict", "Sampler"]

Levels = Sequence[NoiseLevel]
"""The levels of the grid, in Python floats."""
Noise = Callable[[Tensor], Tensor]
"""Fresh standard normal noise like its argument."""


class Predict:
    """A denoiser with its conditions filled in: one network evaluation a call.

    Args:
        denoiser: The denoiser.
        **cond: Its conditions, e.g. ``label`` of shape (B,).
    """

    def __init__(self, denoiser: Denoiser, **cond: Any) -> None:
        self.denoiser = denoiser
        self.process = denoiser.process
        self.cond = cond

    def __call__(self, x: Tensor, level: NoiseLevel) -> Prediction:
        """The prediction at x of shape (B, ...) and a level of floats or of broadcastable tensors."""
        return self.denoiser.predict(x, level, **self.cond)


_MOST_STEPS = 10_000_000


class Sampler(Component, ABC):
    """Turns unit noise into data.

    Args:
        num_steps: Steps in all. With `denoise`, the last of them is the posterior mean at t_min.
        grid: Where the times lie (default `UniformGrid`, on a table its `NearestLevels`).
        denoise: Whether to end with E[x0 | x] at t_min, which removes the noise σ(t_min) that is left.
    """

    order: int | None = None
    """Order of accuracy in the step, in the strong (deterministic) or weak (stochastic) sense."""

    def __init__(self, num_steps: int = 50, grid: TimeGrid | None = None, denoise: bool = True) -> None:
        if not 1 + denoise <= num_steps <= _MOST_STEPS:
            raise ConfigurationError(
                f"num_steps={num_steps}: at least {1 + denoise} with denoise={str(denoise).lower()}, "
                f"and at most {_MOST_STEPS:,}"
            )
        self.num_steps = num_steps
        self.grid = grid or NearestLevels(UniformGrid())
        self.denoise = denoise

    @abstractmethod
    def trajectory(self, predict: Predict, x: Tensor, levels: Levels, noise: Noise) -> Iterator[Tensor]:
        """Yield the state at levels[1], levels[2], ..., given the state x at levels[0]."""

    def states(
        self, denoiser: Denoiser, noise: Tensor, *, generator: Generators = None, **cond: Any
    ) -> Iterator[Tensor]:
        """Yield `num_steps` states from unit noise of shape (B, ...); the last is the sample.

        Args:
            denoiser: Predicts x0, ε, score and velocity; it carries the process.
            noise: Standard normal, shape (B, ...).
            generator: Where a stochastic sampler's noise comes from; one per example makes example i
                independent of the batch that it is drawn in.
            **cond: Conditions for the network, e.g. ``label`` of shape (B,).
        """
        levels = self.levels(denoiser.process)
        predict = Predict(denoiser, **cond)

        def fresh(like: Tensor) -> Tensor:
            return randn_like(like, generator)

        x = levels[0].sigma * noise
        for state in self.trajectory(predict, x, levels, fresh):
            x = state
            yield x
        if self.denoise:
            yield predict(x, levels[-1]).x0

    def __call__(
        self, denoiser: Denoiser, noise: Tensor, *, generator: Generators = None, **cond: Any
    ) -> Tensor:
        """Samples of noise's shape. The caller decides about gradients and about train or eval mode."""
        return deque(self.states(denoiser, noise, generator=generator, **cond), maxlen=1).pop()

    def encode(self, denoiser: Denoiser, x0: Tensor, **cond: Any) -> Tensor:
        """Unit noise like x0 that the sampler turns into x0 up to the error of its steps: its way backwards.

        Of DDIM it is the encoding of Song, Meng & Ermon (2021, sec. 5.4). It starts from α x0 at the last
        time of the grid and ends at σ(t_max) times the noise.

        Args:
            denoiser: The model.
            x0: Clean data, shape (B, ...).
            **cond: Conditions for the network.

        Raises:
            ConfigurationError: If the sampler draws noise of its own.
        """
        levels = self.levels(denoiser.process)[::-1]
        x = levels[0].alpha * x0
        for state in self.trajectory(Predict(denoiser, **cond), x, levels, self._no_noise):
            x = state
        return x / levels[-1].sigma

    def levels(self, process: ForwardProcess) -> Levels:
        """The levels of the grid, from t_max on.

        Raises:
            ConfigurationError: If the grid is not defined for the process.
        """
        return process.levels(self.grid(process, self.num_steps + 1 - self.denoise))

    def _no_noise(self, like: Tensor) -> Tensor:
        raise ConfigurationError(
            f"{type(self).__name__} draws noise, so no way leads back from x0; take a deterministic sampler, "
            "such as DDIM or RK45"
        )
