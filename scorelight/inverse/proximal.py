"""Methods that correct x̂0 towards the measurement in closed form."""

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
from scorelight.samplers.base import BoundDenoiser, Levels, NoiseSource
from scorelight.times import LogSNRGrid, TimeGrid

__all__ = ["DDRM", "DiffPIR"]


class DiffPIR(PosteriorSampler):
    """x̂0 ← argmin_x ‖y − A x‖²/σ_y² + λ ‖x − x̂0‖² α²/σ², then a step (Zhu et al., 2023, alg. 1).

    x_s = α_s x̂0 + σ_s (√(1 − ζ) ε̂ + √ζ z), with ε̂ of the corrected x̂0. Without noise of the measurement, x̂0
    is projected on A x = y.

    Args:
        measurement: A and σ_y.
        num_steps: Steps in all, one network evaluation each.
        grid: The times (default `LogSNRGrid`, on a table its `NearestLevels`).
        denoise: Whether the last step is the posterior mean at t_min.
        strength: λ.
        fresh: ζ, the share of new noise, 0 to 1.
    """

    default_grid = LogSNRGrid()

    def __init__(
        self,
        measurement: Measurement,
        num_steps: int = 100,
        grid: TimeGrid | None = None,
        denoise: bool = True,
        strength: float = 7.0,
        fresh: float = 0.3,
    ) -> None:
        super().__init__(measurement, num_steps, grid, denoise)
        if not strength > 0 or not 0 <= fresh <= 1:
            raise ConfigurationError(
                f"DiffPIR: strength={strength}, fresh={fresh}: positive, and from 0 to 1"
            )
        self.strength = strength
        self.fresh = fresh

    @override
    def trajectory(
        self, predict: BoundDenoiser, x: Tensor, levels: Levels, noise: NoiseSource
    ) -> Iterator[Tensor]:
        y = predict.cond["measurement"]
        for t, s in pairwise(levels):
            x0 = predict(x, t).x0
            rho = self.strength * (t.alpha / t.sigma) ** 2
            x0 = x0 + self.measurement.pull(y - self.operator(x0), 1.0, rho)
            epsilon = (x - t.alpha * x0) / t.sigma
            x = s.alpha * x0 + s.sigma * ((1 - self.fresh) ** 0.5 * epsilon + self.fresh**0.5 * noise(x))
            yield x


class DDRM(PosteriorSampler):
    """Each singular direction of A by itself (Kawar et al., 2022, eq. 7 and 8).

    In x̄ = x/α with the noise σ̄ = σ/α, for a direction with the singular value s, ȳ = A⁺y and the noise σ_y/s:

    * not measured: x̄ = x̂0 + √(1 − η²) σ̄_s ε̂ + η σ̄_s z;
    * σ̄_s < σ_y/s:  x̄ = x̂0 + √(1 − η²) σ̄_s (ȳ − x̂0)/(σ_y/s) + η σ̄_s z;
    * else:         x̄ = (1 − η_b) x̂0 + η_b ȳ + √(σ̄_s² − η_b² σ_y²/s²) z.

    Args:
        measurement: A and σ_y.
        num_steps: Steps in all, one network evaluation each.
        grid: The times (default `LogSNRGrid`, on a table its `NearestLevels`).
        denoise: Whether the last step is the posterior mean at t_min.
        eta: η, 0 to 1.
        eta_measured: η_b, 0 to 1.
    """

    needs_one_noise = True
    default_grid = LogSNRGrid()

    def __init__(
        self,
        measurement: Measurement,
        num_steps: int = 20,
        grid: TimeGrid | None = None,
        denoise: bool = True,
        eta: float = 0.85,
        eta_measured: float = 1.0,
    ) -> None:
        super().__init__(measurement, num_steps, grid, denoise)
        if not 0 <= eta <= 1 or not 0 <= eta_measured <= 1:
            raise ConfigurationError(f"DDRM: eta={eta}, eta_measured={eta_measured}: from 0 to 1")
        self.eta = eta
        self.eta_measured = eta_measured

    @override
    def trajectory(
        self, predict: BoundDenoiser, x: Tensor, levels: Levels, noise: NoiseSource
    ) -> Iterator[Tensor]:
        operator = self.operator
        y = operator.coordinates(operator.pseudo_inverse(predict.cond["measurement"]))
        begin, nothing = levels[0], torch.zeros_like(x)
        x = begin.alpha * self._mixed(begin, 1.0, 1.0, nothing, nothing, y, x / begin.sigma)
        for t, s in pairwise(levels):
            pred = predict(x, t)
            x = s.alpha * self._mixed(s, self.eta, self.eta_measured, pred.x0, pred.epsilon, y, noise(x))
            yield x

    def _mixed(
        self,
        level: NoiseLevel[float],
        eta: float,
        eta_measured: float,
        x0: Tensor,
        epsilon: Tensor,
        y: Tensor,
        z: Tensor,
    ) -> Tensor:
        """x̄ at a level, by the coordinates y of ȳ: a sum with factors that depend on the singular value."""
        sigma, s = level.sigma / level.alpha, self.operator.values_like(y)
        measured = is_measured(s)
        of_y = self.noise_of_measurement / torch.where(measured, s, 1)
        late = measured & (sigma < of_y)
        early = measured & ~late
        kept = (1 - eta**2) ** 0.5 * sigma
        towards = torch.where(late, kept / of_y.clamp(min=sigma), eta_measured * early)
        rest = (sigma**2 - (eta_measured * of_y) ** 2).clamp(min=0).sqrt()
        spread = torch.where(early, rest, eta * sigma)
        a, b, c = map(self.operator.coordinates, (x0, epsilon, z))
        mixed = (1 - towards) * a + kept * ~measured * b + towards * y + spread * c
        return self.operator.from_coordinates(mixed).to(x0.dtype)
