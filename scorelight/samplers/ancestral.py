"""Samplers built on the exact transitions of equation (1), for any process and any two of its levels t > s.

    q(x_t | x_s) = N((α_t/α_s) x_s, σ²_{t|s}),   σ²_{t|s} = σ_t² − (α_t/α_s)² σ_s²              (8)
    q(x_s | x_t, x0) = N(α_s x0 + sqrt(σ_s² − c²) ε, c²),   c² = σ²_{t|s} σ_s²/σ_t²             (9)

(8) and (9) are eq. 2 and 6–7 of Ho et al. (2020) without the restriction α² + σ² = 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

from torch import Tensor
from typing_extensions import override

from scorelight.denoisers.base import Prediction
from scorelight.errors import ConfigurationError
from scorelight.processes.base import NoiseLevel
from scorelight.samplers.base import BoundDenoiser, Levels, NoiseSource, Sampler
from scorelight.times import LogSNRGrid, TimeGrid

__all__ = ["DDIM", "AncestralSampler"]


def noise_lost(t: NoiseLevel[float], s: NoiseLevel[float]) -> float:
    """1 − r² with r = α_t σ_s/(α_s σ_t), from 0 to 1: σ²_{t|s} = σ_t² (1 − r²), c² = σ_s² (1 − r²).

    Written this way, no difference of two squares can be below 0 by rounding and make a state complex.
    """
    return max(1 - float(t.alpha / s.alpha * s.sigma / t.sigma) ** 2, 0.0)


def diffuse(x: Tensor, s: NoiseLevel[float], t: NoiseLevel[float], noise: NoiseSource) -> Tensor:
    """x_t ~ q(x_t | x_s) of (8), t the noisier level."""
    state: Tensor = (t.alpha / s.alpha) * x + t.sigma * noise_lost(t, s) ** 0.5 * noise(x)
    return state


def ancestral_step(pred: Prediction, t: NoiseLevel[float], s: NoiseLevel[float]) -> tuple[Tensor, float]:
    """Mean and standard deviation c of q(x_s | x_t, x̂0) in (9)."""
    lost = noise_lost(t, s)
    return pred.combine(s.alpha, s.sigma * (1 - lost) ** 0.5), s.sigma * lost**0.5


class AncestralSampler(Sampler):
    """x_s ~ N(mean of q(x_s | x_t, x̂0), variance): Ho et al. (2020), algorithm 2; SMLD's for VE.

    Args:
        num_steps: Steps in all, one network evaluation each.
        grid: The times (default `UniformGrid`, on a table its `NearestLevels`).
        denoise: Whether the last step is the posterior mean at t_min.
        variance: ``small`` is the variance of (9), exact for a single data point; ``large`` is σ²_{t|s},
            exact for Gaussian data of unit variance under VP (Ho et al., 2020, sec. 3.2); ``learned`` is the
            network's, between the two (Nichol & Dhariwal, 2021, eq. 15).
    """

    order = 1

    def __init__(
        self,
        num_steps: int = 1000,
        grid: TimeGrid | None = None,
        denoise: bool = True,
        variance: Literal["small", "large", "learned"] = "small",
    ) -> None:
        super().__init__(num_steps, grid, denoise)
        if variance not in ("small", "large", "learned"):
            raise ConfigurationError(f"variance={variance!r}: small, large or learned")
        self.variance = variance

    @override
    def trajectory(
        self, predict: BoundDenoiser, x: Tensor, levels: Levels, noise: NoiseSource
    ) -> Iterator[Tensor]:
        for t, s in pairwise(levels):
            pred = predict(x, t)
            mean, deviation = ancestral_step(pred, t, s)
            x = mean + deviation * (t.sigma / s.sigma) ** self._fraction(pred) * noise(x)
            yield x

    def _fraction(self, pred: Prediction) -> Tensor | float:
        """Position of the log-variance between ``small``, 0, and ``large``, 1."""
        if self.variance != "learned":
            return float(self.variance == "large")
        if pred.variance_fraction is None:
            raise ConfigurationError(
                "AncestralSampler: variance='learned', but the network does not learn it: take small or "
                "large, or train with HybridObjective and model.network.learned_variance"
            )
        return pred.variance_fraction


class DDIM(Sampler):
    """x_s = α_s x̂0 + sqrt(σ_s² − c²) ε̂ + c z with η times the c of (9): Song, Meng & Ermon (2021), eq. 12.

    η = 0 is the exponential-Euler step of the probability flow, η = 1 is `AncestralSampler`.

    Args:
        num_steps: Steps in all, one network evaluation each.
        grid: The times (default `LogSNRGrid`, on a table its `NearestLevels`).
        denoise: Whether the last step is the posterior mean at t_min.
        eta: Amount of noise η, from 0 (deterministic) to 1.
    """

    order = 1
    default_grid = LogSNRGrid()

    def __init__(
        self, num_steps: int = 50, grid: TimeGrid | None = None, denoise: bool = True, eta: float = 0.0
    ) -> None:
        super().__init__(num_steps, grid, denoise)
        if not 0 <= eta <= 1:
            raise ConfigurationError(f"eta={eta}: 0 <= eta <= 1 is needed")
        self.eta = eta

    @override
    def trajectory(
        self, predict: BoundDenoiser, x: Tensor, levels: Levels, noise: NoiseSource
    ) -> Iterator[Tensor]:
        for t, s in pairwise(levels):
            fresh = self.eta**2 * noise_lost(t, s)  # fraction of σ_s² that is new noise, c²/σ_s²
            x = predict(x, t).combine(s.alpha, s.sigma * (1 - fresh) ** 0.5)
            if self.eta:
                x = x + s.sigma * fresh**0.5 * noise(x)
            yield x
