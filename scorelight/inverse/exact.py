"""Draws of the model's own posterior."""

from __future__ import annotations

from collections.abc import Sequence

from scorelight.inverse.base import PosteriorSampler, ThroughSampler
from scorelight.inverse.measurement import Measurement
from scorelight.posterior.exact import ExactGuidance
from scorelight.samplers.base import Sampler

__all__ = ["ExactPosterior"]


class ExactPosterior(ThroughSampler):
    """`ExactGuidance` by a measurement: a Markov chain for each sample, whose law is p(x0 | y).

    p(x0) is the law of a deterministic sampler. The chains of an image are several samples of it, and
    `ExactGuidance.diagnose` compares them. The noise of the measurement decides how many iterations they
    need: a hundred for a few numbers that are measured, or for much noise.

    Args:
        measurement: A, any function, and σ_y > 0.
        flow: The deterministic sampler (default: `ExponentialAdams` of 20 steps).
        num_iterations: Iterations of a chain.
        betas: Steps β of the proposals in turn, 0 < β <= 1: 1 is independent of the present state.
        warmup: Iterations in which the likelihood rises from p(y | x)^0 to p(y | x).
        use_gradient: Whether proposals with β < 1 follow the gradient of the likelihood, through the sampler.
    """

    conditioned = PosteriorSampler.conditioned
    needs_linear = False
    needs_noise = True

    def __init__(
        self,
        measurement: Measurement,
        flow: Sampler | None = None,
        num_iterations: int = 200,
        betas: Sequence[float] = (1.0, 0.5, 0.25, 0.1),
        warmup: int = 50,
        use_gradient: bool = False,
    ) -> None:
        chains = ExactGuidance(
            measurement, 1.0, flow, num_iterations, betas, warmup, use_gradient, conditional=True
        )
        chains.flag = "--method"
        super().__init__(measurement, chains)
