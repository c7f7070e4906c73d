"""Implicit score matching: the derivative of the score in place of a regression target.

    L = E_{t, x_t}[ w(t) λ(t)/D (‖s‖² + 2 tr ∂s/∂x) ]                       (7c)

is, after integration by parts, the Fisher divergence of (7) up to a constant (Hyvärinen, 2005, thm. 1,
times 2/D). With random v, E[v vᵀ] = I, the trace is E[vᵀ (∂s/∂x) v]: sliced score matching (Song, Garg,
Shi & Ermon, 2019) needs one more pass through the network for each v, for any number of dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from scorelight.denoisers.base import Denoiser
from scorelight.errors import ConfigurationError, nearest
from scorelight.numerics.autodiff import input_gradients, outside_inference, quadratic_forms, unit_vectors
from scorelight.objectives.base import NoisyBatch, Objective, Weighting
from scorelight.objectives.weightings import SigmaSquaredWeighting
from scorelight.parameterizations import Score
from scorelight.processes.base import NoiseLevel
from scorelight.rng import Generators, rademacher_like, randn_like
from scorelight.times import TimeSampler

__all__ = ["ImplicitScoreMatching", "SlicedScoreMatching"]

_SCORE = Score()

Projection = Literal["rademacher", "gaussian", "sphere"]
Curvature = Callable[[Tensor], Tensor]
"""v -> vᵀ (∂s/∂x) v for v of shape (n, B, ...), shape (n, B)."""


class ImplicitScoreMatching(Objective):
    """Equation (7c) with the exact trace: D backward passes through the network, vectorised.

    Args:
        weighting: λ of each noise level (default `SigmaSquaredWeighting`).
        time_sampler: Distribution of t (default `UniformTime`); `FixedTime` for one noise level.
        chunk_size: Dimensions differentiated together; bounds the memory of validation, while training needs
            all of them for its own derivative.
    """

    def __init__(
        self,
        weighting: Weighting | None = None,
        time_sampler: TimeSampler | None = None,
        chunk_size: int = 64,
    ) -> None:
        super().__init__(time_sampler)
        if chunk_size < 1:
            raise ConfigurationError(f"chunk_size={chunk_size}: must be at least 1")
        self.weighting = weighting or SigmaSquaredWeighting()
        self.chunk_size = chunk_size

    def loss(
        self, denoiser: Denoiser, noisy: NoisyBatch, *, generator: Generators = None, **cond: Any
    ) -> Tensor:
        """λ/D (‖s‖² + 2 tr ∂s/∂x)."""

        def fisher(score: Tensor, curvature: Curvature) -> Tensor:
            trace = torch.stack([curvature(v).sum(0) for v in self._axes(score)]).sum(0)
            return (score.square().flatten(1).sum(1) + 2 * trace) / score[0].numel()

        return _weighted_fisher(fisher, self.weighting, denoiser, noisy, cond)

    def _axes(self, like: Tensor) -> Iterator[Tensor]:
        return unit_vectors(like, self.chunk_size)


class SlicedScoreMatching(Objective):
    """Equation (7c) with the trace along random directions (Song et al., 2019, eq. 7 and 8, times 2/D).

    Directions are drawn over all dimensions of an example, with E[v vᵀ] = I, so that every choice has the
    same expectation as `ImplicitScoreMatching`.

    Args:
        weighting: λ of each noise level (default `SigmaSquaredWeighting`).
        time_sampler: Distribution of t (default `UniformTime`); `FixedTime` for one noise level.
        projection: Distribution of v: signs, normal, or uniform on the sphere of radius √D.
        num_projections: Number of directions v per example.
        variance_reduction: Whether to use ‖s‖² itself (SSM-VR), not its estimate (vᵀs)².
    """

    def __init__(
        self,
        weighting: Weighting | None = None,
        time_sampler: TimeSampler | None = None,
        projection: Projection = "rademacher",
        num_projections: int = 1,
        variance_reduction: bool = True,
    ) -> None:
        super().__init__(time_sampler)
        if projection not in get_args(Projection):
            raise ConfigurationError(
                f"projection={projection!r}; {nearest(projection, get_args(Projection))}"
            )
        if num_projections < 1:
            raise ConfigurationError(f"num_projections={num_projections}: must be at least 1")
        self.weighting = weighting or SigmaSquaredWeighting()
        self.projection = projection
        self.num_projections = num_projections
        self.variance_reduction = variance_reduction

    def loss(
        self, denoiser: Denoiser, noisy: NoisyBatch, *, generator: Generators = None, **cond: Any
    ) -> Tensor:
        """λ/D (‖s‖² + 2 vᵀ (∂s/∂x) v), the mean over random directions v."""

        def fisher(score: Tensor, curvature: Curvature) -> Tensor:
            v = torch.stack([self._direction(score.detach(), generator) for _ in range(self.num_projections)])
            along = (v * score).flatten(2).sum(2).square().mean(0)
            squared = score.square().flatten(1).sum(1) if self.variance_reduction else along
            return (squared + 2 * curvature(v).mean(0)) / score[0].numel()

        return _weighted_fisher(fisher, self.weighting, denoiser, noisy, cond)

    def _direction(self, like: Tensor, generator: Generators) -> Tensor:
        """One direction per example, of like's shape."""
        if self.projection == "rademacher":
            return rademacher_like(like, generator)
        v = randn_like(like, generator)
        if self.projection == "sphere":
            length: Tensor = torch.linalg.vector_norm(v.flatten(1), dim=1)
            return v * (math.sqrt(v[0].numel()) / length.reshape(-1, *(1,) * (v.ndim - 1)))
        return v


def _weighted_fisher(
    fisher: Callable[[Tensor, Curvature], Tensor],
    weighting: Weighting,
    denoiser: Denoiser,
    noisy: NoisyBatch,
    cond: dict[str, Any],
) -> Tensor:
    """λ times `fisher` of the score and of its curvature."""
    with input_gradients(noisy.x_t, *cond.values()) as ((x_t, *values), training):
        level = noisy.level.map(outside_inference)
        score = denoiser.predict(x_t, level, **dict(zip(cond, values, strict=True))).score

        def curvature(v: Tensor) -> Tensor:
            return quadratic_forms(score, x_t, v, create_graph=training)

        return _score_weight(weighting, level, noisy.x0) * fisher(score, curvature)


def _score_weight(weighting: Weighting, level: NoiseLevel[Tensor], like: Tensor) -> Tensor:
    """λ moved by (6) from the weighting's own space to the score's residual, shape (B,) or ()."""
    ratio = weighting.space.determinant(level) / _SCORE.determinant(level)
    return torch.as_tensor(weighting(level) * ratio**2, dtype=like.dtype).reshape(-1)
