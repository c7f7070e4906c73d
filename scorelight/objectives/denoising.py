"""Denoising score matching: regression on what was added to the data.

    L = E_{t, x0, ε}[ w(t) λ(t) mean_d (y_j(x_t) − y_j(x0, ε))² ]          (7)

with y_j any parameterization (the *space* of the residual), λ a weighting and w the weight of the
time sampler. The minimiser is E[y_j | x_t], hence the true score (Vincent, 2011), for every choice.
The squared residual is averaged over the dimensions: the same learning rate and gradient clipping
serve data of every size. Song et al.'s ½·sum is D/2 times this.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from scorelight.denoiser import Denoiser
from scorelight.objectives.base import Loss, Objective, Weighting
from scorelight.objectives.weightings import SigmaSquaredWeighting, UniformWeighting
from scorelight.parameterizations import Epsilon, Parameterization, Score
from scorelight.seeding import Generators, randn_like
from scorelight.times import TimeSampler, UniformTime

__all__ = ["DenoisingScoreMatching", "EpsilonPrediction"]


class DenoisingScoreMatching(Objective):
    """Equation (7); by default Song et al.'s (2021) eq. 7 with λ = σ²: score residual, uniform t.

    Args:
        space: What the residual is measured in (default `Score`), whatever the network outputs.
        weighting: λ of each noise level (default `SigmaSquaredWeighting`).
        time_sampler: Distribution of t (default `UniformTime`).
    """

    def __init__(
        self,
        space: Parameterization | None = None,
        weighting: Weighting | None = None,
        time_sampler: TimeSampler | None = None,
    ) -> None:
        super().__init__()
        self.space = space or Score()
        self.weighting = weighting or SigmaSquaredWeighting()
        self.time_sampler = time_sampler or UniformTime()

    def forward(self, denoiser: Denoiser, x0: Tensor, *, generator: Generators = None, **cond: Any) -> Loss:
        """Equation (7) for each example."""
        t, weight = self.time_sampler(denoiser.process, len(x0), generator=generator, device=x0.device)
        epsilon = randn_like(x0, generator)
        level = denoiser.process.level(t, like=x0)
        pred = denoiser.predict(level.alpha * x0 + level.sigma * epsilon, level, **cond)
        squared = self.weighting(level) * pred.residual(x0, epsilon, self.space) ** 2
        return Loss(weight.to(x0.dtype) * squared.flatten(1).mean(1), t)


class EpsilonPrediction(Objective):
    """L_simple of Ho et al. (2020), eq. 14: mean ‖ε̂ − ε‖² at uniform t, whatever the network outputs.

    Args:
        time_sampler: Distribution of t (default `UniformTime`).
    """

    def __init__(self, time_sampler: TimeSampler | None = None) -> None:
        super().__init__()
        self.loss = DenoisingScoreMatching(Epsilon(), UniformWeighting(), time_sampler)

    def forward(self, denoiser: Denoiser, x0: Tensor, *, generator: Generators = None, **cond: Any) -> Loss:
        """Equation (7) with the ε residual and λ = 1."""
        loss: Loss = self.loss(denoiser, x0, generator=generator, **cond)
        return loss
