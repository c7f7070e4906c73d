"""The probability flow with the step size chosen from an estimate of the error."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

from scorelight.errors import ConfigurationError
from scorelight.probability_flow import flow
from scorelight.samplers.base import Levels, Noise, Predict, Sampler
from scorelight.times import TimeGrid

__all__ = ["RK45"]


class RK45(Sampler):
    """Dormand–Prince 5(4) with error control per example (Song et al., 2021, sec. 4.3: there per batch).

    A sample does not depend on the others of its batch. The error of a step is measured in z =
    x/√(α² + σ²), which is of order one for every process.

    Args:
        rtol: Relative tolerance of a step.
        atol: Absolute tolerance of a step.
        num_steps: States to report, at the times of the grid and, with `denoise`, the posterior mean at
            t_min; the steps in between are the integrator's own. Each interval costs two evaluations more.
        grid: Where these times lie (default `UniformGrid`, on a table its `NearestLevels`).
        denoise: Whether to end with the posterior mean at t_min.
        max_steps: Steps tried in an interval, six evaluations each.
    """

    order = 5

    def __init__(
        self,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        num_steps: int = 2,
        grid: TimeGrid | None = None,
        denoise: bool = True,
        max_steps: int = 1000,
    ) -> None:
        super().__init__(num_steps, grid, denoise)
        if not (rtol >= 0 and atol > 0):
            raise ConfigurationError(f"rtol={rtol}, atol={atol}: 0 <= rtol and 0 < atol are needed")
        self.rtol = rtol
        self.atol = atol
        self.max_steps = max_steps

    def trajectory(self, predict: Predict, x: Tensor, levels: Levels, noise: Noise) -> Iterator[Tensor]:
        """One integration from each level to the next."""
        options = {"rtol": self.rtol, "atol": self.atol, "max_steps": self.max_steps, **predict.cond}
        for t, s in pairwise(levels):
            x = flow(predict.denoiser, x, t, s, **options).state
            yield x
