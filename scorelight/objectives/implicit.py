"""Implicit score matching: no noise is looked at, the score's own derivative takes its place.

    L = E_{t, x_t}[ w(t) λ(t)/D (‖s‖² + 2 tr ∂s/∂x) ]                       (7c)

is, after integration by parts, the Fisher divergence of (7) but for a constant (Hyvärinen, 2005, thm. 1,
times 2/D). With random v, E[v vᵀ] = I, the trace is E[vᵀ (∂s/∂x) v]: sliced score matching (Song, Garg,
Shi & Ermon, 2019) needs one more pass through the network for each v, however many dimensions there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from scorelight.autodiff import input_gradients, quadratic_forms, unit_vectors
from scorelight.denoiser import Denoiser
from scorelight.errors import ConfigurationError, nearest
from scorelight.objectives.base import Loss, Objective, Weighting, draw, weighted
from scorelight.objectives.weightings import SigmaSquaredWeighting
from scorelight.parameterizations import Score
from scorelight.processes.base import NoiseLevel
from scorelight.seeding import Generators, rademacher_like, randn_like
from scorelight.times import TimeSampler, UniformTime

__all__ = ["ImplicitScoreMatching", "SlicedScoreMatching"]

Projection = Literal["rademacher", "gaussian", "sphere"]


class ImplicitScoreMatching(Objective):
    """Equation (7c) with the exact trace: D passes backward through the network, vectorised.

    Args:
        weighting: λ of each noise level (default `SigmaSquaredWeighting`).
        time_sampler: Distribution of t (default `UniformTime`); `FixedTime` for one noise level.
        chunk_size: Dimensions differentiated together; bounds the memory of validation, while training keeps
            all of them for its own derivative.
    """

    def __init__(
        self,
        weighting: Weighting | None = None,
        time_sampler: TimeSampler | None = None,
        chunk_size: int = 64,
    ) -> None:
        super().__init__()
        if chunk_size < 1:
            raise ConfigurationError(f"chunk_size={chunk_size}: must be at least 1")
        self.weighting = weighting or SigmaSquaredWeighting()
        self.time_sampler = time_sampler or UniformTime()
        self.chunk_size = chunk_size

    def forward(self, denoiser: Denoiser, x0: Tensor, *, generator: Generators = None, **cond: Any) -> Loss:
        """Equation (7c) for each example."""

        def fisher(score: Tensor, curvature: Callable[[Tensor], Tensor]) -> Tensor:
            size = score[0].numel()
            trace = torch.stack([curvature(v).sum(0) for v in self._axes(score)]).sum(0)
            return (score.square().flatten(1).sum(1) + 2 * trace) / size

        return _evaluate(fisher, self.weighting, self.time_sampler, denoiser, x0, generator, cond)

    def _axes(self, like: Tensor) -> Iterator[Tensor]:
        return unit_vectors(like, self.chunk_size)


class SlicedScoreMatching(Objective):
    """Equation (7c) with the trace along random directions (Song et al., 2019, eq. 7 and 8, times 2/D).

    Directions are drawn over all dimensions of an example, with E[v vᵀ] = I, so that every choice has the
    same expectation, that of `ImplicitScoreMatching`.

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
        super().__init__()
        if projection not in get_args(Projection):
            raise ConfigurationError(
                f"projection={projection!r}; {nearest(projection, get_args(Projection))}"
            )
        if num_projections < 1:
            raise ConfigurationError(f"num_projections={num_projections}: must be at least 1")
        self.weighting = weighting or SigmaSquaredWeighting()
        self.time_sampler = time_sampler or UniformTime()
        self.projection = projection
        self.num_projections = num_projections
        self.variance_reduction = variance_reduction

    def forward(self, denoiser: Denoiser, x0: Tensor, *, generator: Generators = None, **cond: Any) -> Loss:
        """Equation (7c) for each example, with random directions."""

        def fisher(score: Tensor, curvature: Callable[[Tensor], Tensor]) -> Tensor:
            v = torch.stack([self._direction(score.detach(), generator) for _ in range(self.num_projections)])
            along = (v * score).flatten(2).sum(2).square().mean(0)
            squared = score.square().flatten(1).sum(1) if self.variance_reduction else along
            return (squared + 2 * curvature(v).mean(0)) / score[0].numel()

        return _evaluate(fisher, self.weighting, self.time_sampler, denoiser, x0, generator, cond)

    def _direction(self, like: Tensor, generator: Generators) -> Tensor:
        """One direction per example, of like's shape."""
        if self.projection == "rademacher":
            return rademacher_like(like, generator)
        v = randn_like(like, generator)
        if self.projection == "sphere":
            length = v.flatten(1).norm(dim=1).reshape(-1, *(1,) * (v.ndim - 1))
            return v * (math.sqrt(v[0].numel()) / length)
        return v


def _evaluate(
    fisher: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor],
    weighting: Weighting,
    time_sampler: TimeSampler,
    denoiser: Denoiser,
    x0: Tensor,
    generator: Generators,
    cond: dict[str, Any],
) -> Loss:
    """λ times `fisher` of the score and of the function v -> vᵀ (∂s/∂x) v, at random times."""
    process = denoiser.process
    with input_gradients(x0, *cond.values()) as (inputs, training):
        cond = dict(zip(cond, inputs[1:], strict=True))
        noisy = draw(process, inputs[0].detach(), time_sampler, generator)
        x_t = noisy.x_t if noisy.x_t.requires_grad else noisy.x_t.requires_grad_()
        score = denoiser.predict(x_t, noisy.level, **cond).score

        def curvature(v: Tensor) -> Tensor:
            """vᵀ (∂s/∂x) v for v of shape (n, B, ...), shape (n, B)."""
            return quadratic_forms(score, x_t, v, create_graph=training)

        value = _score_weight(weighting, noisy.level, x0) * fisher(score, curvature)
    return Loss(weighted(process, noisy, time_sampler, value), noisy.t)


def _score_weight(weighting: Weighting, level: NoiseLevel, like: Tensor) -> Tensor:
    """λ moved by (6) from the weighting's own space to the score's residual, shape (B,) or ()."""
    ratio = weighting.space.determinant(level) / Score().determinant(level)
    return torch.as_tensor(weighting(level) * ratio**2, dtype=like.dtype).reshape(-1)
