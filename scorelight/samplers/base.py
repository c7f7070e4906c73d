"""How noise turns into data.

A sampler steps along a `TimeGrid` from t_max to t_min. Its `trajectory` is the paper's loop and nothing
else; this base scales the unit noise to the prior, and takes the last step to clean data.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from torch import Tensor

from scorelight.batch import select_conditions
from scorelight.denoisers.base import Denoiser, Prediction
from scorelight.errors import ConfigurationError
from scorelight.processes.base import AnyLevel, ForwardProcess, NoiseLevel
from scorelight.rng import Generators, randn_like
from scorelight.samplers.finite import finite_states
from scorelight.storage.component import Component
from scorelight.times import NearestLevels, TimeGrid, UniformGrid

__all__ = ["BoundDenoiser", "Levels", "NoiseSource", "Sampler", "final_state"]

Levels = Sequence[NoiseLevel[float]]
"""The levels of the grid, in Python floats."""
NoiseSource = Callable[[Tensor], Tensor]
"""Fresh standard normal noise like its argument."""


class BoundDenoiser:
    """A denoiser with its conditions filled in: one network evaluation a call.

    Args:
        denoiser: The denoiser.
        **cond: Its conditions, e.g. ``label`` of shape (B,).
    """

    def __init__(self, denoiser: Denoiser, **cond: Any) -> None:
        self.denoiser = denoiser
        self.process = denoiser.process
        self.cond = cond

    def __call__(self, x: Tensor, level: AnyLevel) -> Prediction:
        """The prediction at x of shape (B, ...) and a level of floats or of broadcastable tensors."""
        return self.denoiser.predict(x, level, **self.cond)

    def select(self, index: Tensor, size: int) -> BoundDenoiser:
        """The same for the examples at the positions `index` of a batch of `size`."""
        return BoundDenoiser(self.denoiser, **select_conditions(self.cond, index, size))


def final_state(states: Iterable[Tensor]) -> Tensor:
    """The last state of a path, with no other kept in memory."""
    return deque(states, maxlen=1).pop()


_MOST_STEPS = 10_000_000


class Sampler(Component, ABC):
    """Turns unit noise into data.

    Args:
        num_steps: Steps in all. With `denoise`, the last of them is the posterior mean at t_min.
        grid: The times (default: `default_grid`, on a table its `NearestLevels`).
        denoise: Whether to end with E[x0 | x] at t_min, which removes the noise σ(t_min) that is left.
    """

    order: int | None = None
    """Order of accuracy in the step, in the strong (deterministic) or weak (stochastic) sense."""
    default_grid: TimeGrid = UniformGrid()
    """The grid unless another one is given; on a table, rounded to its noise levels."""
    num_classes: int | None = None
    """Classes that samples can be asked for through the sampler alone, without the denoiser's help."""
    remedy: str = "more steps, another sampler"
    """What to change in this sampler if its samples are not finite."""

    def __init__(self, num_steps: int = 50, grid: TimeGrid | None = None, denoise: bool = True) -> None:
        if not 1 + denoise <= num_steps <= _MOST_STEPS:
            raise ConfigurationError(
                f"num_steps={num_steps}: at least {1 + denoise} with denoise={str(denoise).lower()}, "
                f"and at most {_MOST_STEPS:,}"
            )
        self.num_steps = num_steps
        self.grid = grid or NearestLevels(self.default_grid)
        self.denoise = denoise

    @abstractmethod
    def trajectory(
        self, predict: BoundDenoiser, x: Tensor, levels: Levels, noise: NoiseSource
    ) -> Iterator[Tensor]:
        """Yield the state at levels[1], levels[2], ..., given the state x at levels[0]."""

    def sample_path(
        self,
        denoiser: Denoiser,
        noise: Tensor,
        *,
        generator: Generators = None,
        noise_source: NoiseSource | None = None,
        **cond: Any,
    ) -> Iterator[Tensor]:
        """Yield `num_steps` states from unit noise of shape (B, ...); the last is the sample.

        Args:
            denoiser: Predicts x0, ε, score and velocity; it carries the process.
            noise: Standard normal, shape (B, ...).
            generator: Source of a stochastic sampler's noise; a `PhiloxGenerator` makes example i
                independent of its batch.
            noise_source: Called as ``noise_source(like)`` for each draw, instead of the generator.
            **cond: Conditions for the network, e.g. ``label`` of shape (B,).

        Raises:
            SamplingError: After the last state, if an example was NaN or infinite in any.
        """
        levels = self.levels(denoiser.process)
        source = noise_source or functools.partial(randn_like, generator=generator)
        states = self.states(BoundDenoiser(denoiser, **cond), levels[0].sigma * noise, levels, source)
        yield from self._checked(states, levels, denoiser)

    def states(
        self, predict: BoundDenoiser, x: Tensor, levels: Levels, noise: NoiseSource
    ) -> Iterator[Tensor]:
        """The trajectory, and with `denoise` the posterior mean at its end."""
        for state in self.trajectory(predict, x, levels, noise):
            x = state
            yield x
        if self.denoise:
            yield predict(x, levels[-1]).x0

    def _checked(self, states: Iterator[Tensor], levels: Levels, denoiser: Denoiser) -> Iterator[Tensor]:
        """The states, with an error if one of them is not finite."""
        times = [float(level.time) for level in levels[1:]]
        return finite_states(states, times, denoiser, type(self).__name__, self.remedy)

    def __call__(
        self,
        denoiser: Denoiser,
        noise: Tensor,
        *,
        generator: Generators = None,
        noise_source: NoiseSource | None = None,
        **cond: Any,
    ) -> Tensor:
        """Samples of noise's shape. The caller decides about gradients and about train or eval mode.

        Raises:
            SamplingError: If a sample is NaN or infinite, or was so on the way.
        """
        path = self.sample_path(denoiser, noise, generator=generator, noise_source=noise_source, **cond)
        return final_state(path)

    def encode(self, denoiser: Denoiser, x0: Tensor, **cond: Any) -> Tensor:
        """Unit noise like x0 that the sampler turns into x0 up to the error of its steps, run backwards.

        With DDIM it is the encoding of Song, Meng & Ermon (2021, sec. 5.4). It starts from α x0 at the last
        time of the grid and ends at σ(t_max) times the noise.

        Args:
            denoiser: The model.
            x0: Clean data, shape (B, ...).
            **cond: Conditions for the network.

        Raises:
            ConfigurationError: If the sampler draws noise of its own.
            SamplingError: If a state is NaN or infinite.
        """
        levels = self.levels(denoiser.process)[::-1]
        x = levels[0].alpha * x0
        states = self.trajectory(BoundDenoiser(denoiser, **cond), x, levels, self._no_noise)
        return final_state(chain([x], self._checked(states, levels, denoiser))) / levels[-1].sigma

    def levels(self, process: ForwardProcess) -> Levels:
        """The levels of the grid, from t_max on.

        Raises:
            ConfigurationError: If the grid is not defined for the process.
        """
        return process.grid_levels(self.grid(process, self.num_steps + 1 - self.denoise))

    def report(self) -> list[str]:
        """What is to be known about the samples drawn so far, in lines for people."""
        return []

    def _no_noise(self, like: Tensor) -> Tensor:
        raise ConfigurationError(
            f"{type(self).__name__} draws noise and cannot be run backwards from x0; use a deterministic "
            "sampler, such as DDIM or RK45"
        )
