"""What guidances by the gradient of a log-likelihood share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from scorelight.denoisers.base import Denoiser, DenoiserWrapper, Prediction
from scorelight.guidance.base import Interval, check_scale, is_constant, scale_at
from scorelight.processes.base import AnyLevel

__all__ = ["GradientGuidance"]


class GradientGuidance(DenoiserWrapper, ABC):
    """∇log p_t(x_t) ← ∇log p_t(x_t) + s ∇log p(y | x_t), the gradient at x_t, not through the denoiser.

    Args:
        denoiser: The model.
        scale: s.
        interval: Guide between these values of σ/α only.
        conditional: Whether the model is given the conditions, too; else it predicts without them.
    """

    def __init__(
        self, denoiser: Denoiser, scale: float, interval: Interval | None, conditional: bool
    ) -> None:
        super().__init__(denoiser)
        check_scale(type(self).__name__, scale, interval)
        self.scale, self.interval, self.conditional = scale, interval, conditional

    @abstractmethod
    def log_likelihood(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Tensor:
        """Log p(y | x_t) up to a constant, shape (B,), differentiable."""

    @override
    def predict(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        ask = self.denoiser.predict if self.conditional else self.denoiser.unconditional
        pred = ask(x_t, level, **cond)
        scale = scale_at(level, self.scale, self.interval, outside=0.0)
        if is_constant(scale, 0):
            return pred
        with torch.inference_mode(False), torch.enable_grad():
            x = x_t.detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.log_likelihood(x, level, **cond).sum(), x)
        return pred.plus_score(gradient, scale)
