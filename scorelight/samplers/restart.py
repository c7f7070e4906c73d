"""Back and forth between two noise levels: Xu et al. (2023)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from scorelight.errors import ConfigurationError
from scorelight.processes.base import NoiseLevel
from scorelight.samplers.ancestral import DDIM, diffuse
from scorelight.samplers.base import BoundDenoiser, Levels, NoiseSource, Sampler, final_state
from scorelight.times import LogSNRGrid, TimeGrid

__all__ = ["Restart"]


class Restart(Sampler):
    """A sampler that returns from σ/α = low to σ/α = high several times before it continues.

    Xu et al. (2023), algorithm 1 with one interval. The way back is (8), exact for every process:

        x_high = (α_high/α_low) x_low + σ_{high|low} z

    Each time the added noise removes a part of the earlier errors; those of the last pass remain. A pass
    costs the steps of the interval once more.

    Args:
        num_steps: Steps in all, the repeated ones not counted; with `denoise` the last is the posterior mean.
        grid: The times (default `LogSNRGrid`, on a table its `NearestLevels`).
        denoise: Whether the last step is the posterior mean at t_min.
        sampler: The sampler; its own number of steps, grid and last step are not used (default `DDIM`).
        low: σ/α to return from, positive: the smallest of the grid that is not below.
        high: σ/α to return to: the largest of the grid that is not above.
        num_restarts: How often, at least 1.
    """

    default_grid = LogSNRGrid()

    def __init__(
        self,
        num_steps: int = 50,
        grid: TimeGrid | None = None,
        denoise: bool = True,
        sampler: Sampler | None = None,
        low: float = 0.2,
        high: float = 1.5,
        num_restarts: int = 3,
    ) -> None:
        super().__init__(num_steps, grid, denoise)
        if not 0 < low < high:
            raise ConfigurationError(f"Restart: low={low}, high={high}: 0 < low < high is needed")
        if num_restarts < 1:
            raise ConfigurationError(f"Restart: num_restarts={num_restarts}: at least 1")
        self.sampler = sampler or DDIM()
        self.low = low
        self.high = high
        self.num_restarts = num_restarts

    def trajectory(
        self, predict: BoundDenoiser, x: Tensor, levels: Levels, noise: NoiseSource
    ) -> Iterator[Tensor]:
        """The sampler's steps, those of the interval `num_restarts` times more."""

        def down(x: Tensor, first: int, last: int) -> Iterator[Tensor]:
            return self.sampler.trajectory(predict, x, levels[first : last + 1], noise)

        high, low = self._interval(levels)
        for index, state in enumerate(down(x, 0, low), 1):
            x = state
            if index == low:
                for _ in range(self.num_restarts):
                    x = diffuse(x, levels[low], levels[high], noise)
                    x = final_state(down(x, high, low))
            yield x
        yield from down(x, low, len(levels) - 1)

    def _interval(self, levels: Levels) -> tuple[int, int]:
        """Indices of the levels to return to and from."""
        inside = [i for i, level in enumerate(levels) if self.low <= _ratio(level) <= self.high]
        if len(inside) < 2:
            span = f"from σ/α = {_ratio(levels[0]):.3g} to {_ratio(levels[-1]):.3g}"
            raise ConfigurationError(
                f"Restart: low={self.low}, high={self.high}: the grid has {len(inside)} of its {len(levels)} "
                f"levels there, {span}, and two are needed; take more steps or a wider interval"
            )
        return inside[0], inside[-1]


def _ratio(level: NoiseLevel[float]) -> float:
    return float(level.sigma / level.alpha)
