"""Guidance by a worse version of the model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from scorelight.denoisers.base import Denoiser, DenoiserWrapper, Prediction
from scorelight.errors import ConfigurationError
from scorelight.guidance.base import Interval, check_scale, extrapolate, is_constant, scale_at
from scorelight.processes.base import AnyLevel, ForwardProcess
from scorelight.storage.component import spec
from scorelight.storage.runs import find_checkpoint
from scorelight.training.loading import load_module
from scorelight.training.module import Weights

__all__ = ["Autoguidance"]


class Autoguidance(DenoiserWrapper):
    """D ← D_weak(x_t) + s [D(x_t) − D_weak(x_t)], for x̂0, ε̂ and the score alike.

    The source is Karras et al. (2024), "Guiding a diffusion model with a bad version of itself", eq. 5. s = 1
    is the model itself. Both are given the same conditions, and unconditional models can be guided, too.

    For data N(0, c²) and a worse model whose score is that of N(0, c² + δ²), under VE with large σ_max, the
    probability flow ends at the variance c² [c²/(c² + δ²)]^(s − 1).

    Outside the interval there is one evaluation; inside there are two, one of each network.

    Args:
        denoiser: The model.
        weaker: Run folder or checkpoint of the worse version: fewer steps, a smaller network or another
            average of the weights, of the same process; or a denoiser.
        scale: s; 1 is the model itself.
        interval: Guide between these values of σ/α only.
        weights: Those of the worse version: their average, or the ones that were trained.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        weaker: str | Path | Denoiser,
        scale: float = 2.0,
        interval: Interval | None = None,
        weights: Weights = "ema",
    ) -> None:
        super().__init__(denoiser)
        check_scale("Autoguidance", scale, interval)
        if not isinstance(weaker, Denoiser):
            module = load_module(find_checkpoint(weaker))
            module.guidance = None
            weaker = module.denoiser_for(weights)
        if not _same_levels(weaker.process, denoiser.process):
            raise ConfigurationError(
                f"Autoguidance: the process of weaker, {spec(weaker.process)}, has other noise levels than "
                f"that of the model, {spec(denoiser.process)}; take a model of the same process"
            )
        self.weaker = weaker.requires_grad_(False).eval()
        self.scale, self.interval = scale, interval

    @override
    def predict(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        scale = scale_at(level, self.scale, self.interval)
        better = self.denoiser.predict(x_t, level, **cond)
        if is_constant(scale, 1):
            return better
        return extrapolate(self.weaker.predict(x_t, level, **cond), better, scale)

    @override
    def evaluations(self, level: AnyLevel) -> int:
        scale = scale_at(level, self.scale, self.interval)
        alone = is_constant(scale, 1)
        return self.denoiser.evaluations(level) + (0 if alone else self.weaker.evaluations(level))


def _same_levels(a: ForwardProcess, b: ForwardProcess) -> bool:
    """Whether α and σ agree at all times."""
    times = torch.linspace(b.t_min, b.t_max, 9, dtype=torch.float64)
    pairs = zip(a.grid_levels(times), b.grid_levels(times), strict=True)
    return all(
        math.isclose(x, y, rel_tol=1e-6)
        for s, t in pairs
        for x, y in ((s.alpha, t.alpha), (s.sigma, t.sigma))
    )
