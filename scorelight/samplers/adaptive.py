"""The probability flow with steps chosen from an estimate of the error.

With tan θ = σ/α and z = x_t/√(α² + σ²), equations (1) and (4) become

    z = cos θ x0 + sin θ ε        dz/dθ = cos θ ε̂ − sin θ x̂0 = v̂                                  (20)

(Salimans & Ho, 2022, app. D, there for α² + σ² = 1). The process enters through its log-SNR alone: a table
has no jumps here, z is of order one for VE too, and z is nearly constant for data of unit variance.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from scorelight.denoisers.base import Denoiser
from scorelight.errors import ConfigurationError
from scorelight.numerics.adaptive import Solution
from scorelight.numerics.dopri5 import dopri5
from scorelight.processes.base import NoiseLevel
from scorelight.samplers.base import BoundDenoiser, Levels, NoiseSource, Sampler
from scorelight.times import TimeGrid

__all__ = ["RK45", "decode", "encode", "flow", "slerp"]


class RK45(Sampler):
    """Dormand–Prince 5(4) with error control per example (Song et al., 2021, sec. 4.3: there per batch).

    A sample does not depend on the others of its batch. The error of a step is measured in z =
    x/√(α² + σ²), which is of order one for every process.

    Args:
        rtol: Relative tolerance of a step.
        atol: Absolute tolerance of a step.
        num_steps: States to report, at the times of the grid and, with `denoise`, the posterior mean at
            t_min; the steps in between are the integrator's own. Each interval costs two evaluations more.
        grid: These times (default `UniformGrid`, on a table its `NearestLevels`).
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

    def trajectory(
        self, predict: BoundDenoiser, x: Tensor, levels: Levels, noise: NoiseSource
    ) -> Iterator[Tensor]:
        """One integration from each level to the next."""
        for t, s in pairwise(levels):
            x = flow(predict, x, t, s, rtol=self.rtol, atol=self.atol, max_steps=self.max_steps).state
            yield x


def flow(
    predict: BoundDenoiser,
    x: Tensor,
    start: NoiseLevel[float],
    end: NoiseLevel[float],
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 1000,
) -> Solution[Tensor]:
    """Carry x of shape (B, ...) along the probability flow (20) from one level to another.

    Args:
        predict: The model, with its conditions.
        x: States at `start`.
        start: The level x is at, of floats (`ForwardProcess.grid_levels`).
        end: The level to integrate to.
        rtol: Relative tolerance of a step, in z.
        atol: Absolute tolerance of a step, in z.
        max_steps: Steps tried, six evaluations each.
    """

    def field(theta: Tensor, z: Tensor, index: Tensor) -> Tensor:
        level = predict.process.at_angle(theta, like=z)
        return predict.select(index, len(x))(level.length * z, level).angular_velocity

    solution = dopri5(
        field, x / start.length, start.angle, end.angle, rtol=rtol, atol=atol, max_steps=max_steps
    )
    return Solution(end.length * solution.state, solution.num_evaluations)


def encode(denoiser: Denoiser, x0: Tensor, *, rtol: float = 1e-6, atol: float = 1e-6, **cond: Any) -> Tensor:
    """Unit noise, like x0, that the probability flow carries to x0 (Song et al., 2021, sec. 4.3).

    The flow starts at α x0 at t_min and ends at σ(t_max) times the noise: `RK45.encode` in one interval.

    Args:
        denoiser: The model.
        x0: Clean data, shape (B, ...).
        rtol: Relative tolerance of a step.
        atol: Absolute tolerance of a step.
        **cond: Conditions for the network.
    """
    return RK45(rtol, atol, num_steps=1, denoise=False).encode(denoiser, x0, **cond)


def decode(
    denoiser: Denoiser, noise: Tensor, *, rtol: float = 1e-6, atol: float = 1e-6, **cond: Any
) -> Tensor:
    """The inverse of `encode`: x_{t_min}/α, like noise, without the denoising step of a sampler.

    Args:
        denoiser: The model.
        noise: Unit noise, shape (B, ...).
        rtol: Relative tolerance of a step.
        atol: Absolute tolerance of a step.
        **cond: Conditions for the network.
    """
    clean, _ = denoiser.process.end_levels()
    return RK45(rtol, atol, num_steps=1, denoise=False)(denoiser, noise, **cond) / clean.alpha


def slerp(a: Tensor, b: Tensor, share: Tensor | float) -> Tensor:
    """Spherical interpolation, sin((1−s)φ)/sin φ a + sin(sφ)/sin φ b (Shoemake, 1985), of a's shape.

    φ is the angle between a and b, over all dimensions of an example. Where they have the same direction the
    result is the limit, a straight line. Between two noises the norm remains that of noise.

    Args:
        a: Shape (B, ...).
        b: Shape (B, ...).
        share: s, from 0 (a) to 1 (b), a float or of shape (B,).
    """
    flat_a, flat_b = a.double().flatten(1), b.double().flatten(1)
    s = torch.as_tensor(share, dtype=torch.float64, device=a.device).reshape(-1, 1)
    unit_a, unit_b = (f / f.norm(dim=1, keepdim=True) for f in (flat_a, flat_b))
    phi = 2 * torch.atan2(
        (unit_a - unit_b).norm(dim=1, keepdim=True), (unit_a + unit_b).norm(dim=1, keepdim=True)
    )
    straight = phi < 1e-7
    sine = phi.where(~straight, torch.ones_like(phi)).sin()
    weight_a = torch.where(straight, 1 - s, ((1 - s) * phi).sin() / sine)
    weight_b = torch.where(straight, s.expand_as(phi), (s * phi).sin() / sine)
    return (weight_a * flat_a + weight_b * flat_b).reshape(a.shape).to(a.dtype)
