"""Denoising score matching: regression on the noise that was added to the data.

    L = E_{t, x0, ε}[ w(t) λ(t) mean_d (y_j(x_t) − y_j(x0, ε))² ]          (7a)

with y_j any parameterization (the *space* of the residual), λ a weighting and w the weight of the
time sampler. The minimiser is E[y_j | x_t], hence the true score (Vincent, 2011), for every choice.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from typing_extensions import override

from scorelight.denoisers.base import Denoiser
from scorelight.objectives.base import NoisyBatch, Objective, Weighting, mean_over_dims
from scorelight.objectives.weightings import SigmaSquaredWeighting
from scorelight.parameterizations import Epsilon, Parameterization
from scorelight.rng import Generators
from scorelight.times import TimeSampler

__all__ = ["DenoisingScoreMatching", "EpsilonPrediction"]

_EPSILON = Epsilon()


class DenoisingScoreMatching(Objective):
    """Equation (7a); by default Song et al.'s (2021) eq. 7 with λ = σ²: score residual, uniform t.

    With `DiscreteTime` it is the loss of SMLD (Song & Ermon, 2019, eq. 6) and of DDPM.

    Args:
        space: Space of the residual, whatever the network outputs (default: the weighting's).
        weighting: λ of each noise level (default `SigmaSquaredWeighting`).
        time_sampler: Distribution of t (default `UniformTime`).
    """

    def __init__(
        self,
        space: Parameterization | None = None,
        weighting: Weighting | None = None,
        time_sampler: TimeSampler | None = None,
    ) -> None:
        super().__init__(time_sampler)
        self.weighting = weighting or SigmaSquaredWeighting()
        self.space = space or self.weighting.space

    def loss(
        self, denoiser: Denoiser, noisy: NoisyBatch, *, generator: Generators = None, **cond: Any
    ) -> Tensor:
        """λ mean_d (y_j(x_t) − y_j(x0, ε))²."""
        pred = denoiser.predict(noisy.x_t, noisy.level, **cond)
        residual = pred.residual(noisy.x0, noisy.epsilon, self.space)
        return mean_over_dims(self.weighting(noisy.level) * residual**2)


class EpsilonPrediction(Objective):
    """L_simple of Ho et al. (2020), eq. 14: mean ‖ε̂ − ε‖² at uniform t, whatever the network outputs.

    Args:
        time_sampler: Distribution of t (default `UniformTime`).
    """

    def __init__(self, time_sampler: TimeSampler | None = None) -> None:
        super().__init__(time_sampler)

    @override
    def loss(
        self, denoiser: Denoiser, noisy: NoisyBatch, *, generator: Generators = None, **cond: Any
    ) -> Tensor:
        pred = denoiser.predict(noisy.x_t, noisy.level, **cond)
        return mean_over_dims(pred.residual(noisy.x0, noisy.epsilon, _EPSILON) ** 2)
