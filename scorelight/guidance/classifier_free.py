"""Classifier-free guidance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from scorelight.denoisers.base import Denoiser, DenoiserWrapper, Prediction
from scorelight.errors import ConfigurationError
from scorelight.guidance.base import Interval, check_scale, extrapolate, is_constant, scale_at
from scorelight.parameterizations import X0
from scorelight.processes.base import AnyLevel, Scalar

__all__ = ["ClassifierFreeGuidance"]


class ClassifierFreeGuidance(DenoiserWrapper):
    """D ← D(x_t) + s [D(x_t | c) − D(x_t)] (Ho & Salimans, 2021, eq. 6), for x̂0, ε̂ and the score alike.

    s = 1 is the conditional model and s = 0 the unconditional one. Ho & Salimans' weight is w = s − 1; the
    scale of diffusers and of Kynkäänniemi et al. (2024) is s.

    For s ≠ 1 no diffusion has this score (Bradley & Nakkiran, 2024): what is drawn depends on the sampler,
    and is not p(x|c)^s p(x)^(1−s)/Z. For p(x|c) = N(0, 1) and p(x) = N(0, 2), under VE with large σ_max, the
    variance of that density is 2/(1 + s), the probability flow ends at 2^(1−s), and the reverse SDE at
    (2 − 2^(2−2s))/(2s − 1). `ExactGuidance` draws of the density itself.

    Both predictions take one evaluation of a network, with twice the batch, and count as two; outside the
    interval there is one.

    Args:
        denoiser: A model that was trained with `condition_dropout`.
        scale: s; 1 is the conditional model.
        interval: Guide between these values of σ/α only (Kynkäänniemi et al., 2024).
        rescale: φ, 0 to 1: share of x̂0 whose standard deviation, over the dimensions of an example, is that
            of the conditional x̂0 (Lin et al., 2023, eq. 15 and 16, there for the network's output).
        parallel: η, 0 to 1: factor of the part of s [D(x_t | c) − D(x_t)] that is parallel to the
            conditional x̂0 and over-saturates (Sadat et al., 2024, "adaptive projected guidance", eq. 8,
            without momentum).
    """

    needs_condition_dropout = True

    def __init__(
        self,
        denoiser: Denoiser,
        scale: float = 2.0,
        interval: Interval | None = None,
        rescale: float = 0.0,
        parallel: float = 1.0,
    ) -> None:
        super().__init__(denoiser)
        check_scale("ClassifierFreeGuidance", scale, interval)
        if not 0 <= rescale <= 1 or not 0 <= parallel <= 1:
            raise ConfigurationError(
                f"ClassifierFreeGuidance: rescale={rescale}, parallel={parallel}: from 0 to 1"
            )
        self.scale, self.interval = scale, interval
        self.rescale, self.parallel = rescale, parallel

    @override
    def predict(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        scale = scale_at(level, self.scale, self.interval)
        if is_constant(scale, 1):
            return self.denoiser.predict(x_t, level, **cond)
        conditional, unconditional = self.denoiser.predict_both(x_t, level, **cond)
        if self.rescale == 0 and self.parallel == 1:
            return extrapolate(unconditional, conditional, scale)
        x0 = self._corrected(unconditional.x0, conditional.x0, scale)
        return Prediction(x_t, level, x0, X0(), conditional.variance_fraction)

    @override
    def evaluations(self, level: AnyLevel) -> int:
        scale = scale_at(level, self.scale, self.interval)
        return self.denoiser.evaluations(level) * (1 if is_constant(scale, 1) else 2)

    def _corrected(self, away: Tensor, towards: Tensor, scale: Scalar) -> Tensor:
        """x̂0 by the options, with the scale 1 left as it is."""
        step = (scale - 1) * (towards - away)
        along = (
            _sum(step * towards) / _sum(towards.square()).clamp(min=torch.finfo(towards.dtype).tiny) * towards
        )
        guided = towards + step - (1 - self.parallel) * along
        ratio = _std(towards) / _std(guided).clamp(min=torch.finfo(towards.dtype).tiny)
        return guided * (1 + self.rescale * (ratio - 1))


def _sum(x: Tensor) -> Tensor:
    """Over the dimensions of an example, shape (B, 1, ...)."""
    return x.flatten(1).sum(1).reshape(-1, *(1,) * (x.ndim - 1))


def _std(x: Tensor) -> Tensor:
    """Over the dimensions of an example, shape (B, 1, ...)."""
    return x.flatten(1).std(1).reshape(-1, *(1,) * (x.ndim - 1))
