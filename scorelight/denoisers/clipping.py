"""Predictions of x0 clipped to the range of the data."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from typing_extensions import override

from scorelight.denoisers.base import Denoiser, DenoiserWrapper, Prediction
from scorelight.errors import ConfigurationError
from scorelight.parameterizations import X0
from scorelight.processes.base import AnyLevel

__all__ = ["ClippedDenoiser"]

_X0 = X0()


class ClippedDenoiser(DenoiserWrapper):
    """x̂0 ← clip(x̂0, low, high), as Ho et al. (2020) sample; ε̂ = (x_t − α x̂0)/σ follows from it.

    With a `quantile` q the threshold is dynamic (Saharia et al., 2022, "Imagen", sec. 2.3): with the middle m
    and half the width h of the range, u = (x̂0 − m)/h, and r the larger of 1 and the q-quantile of |u| over
    the dimensions of an example, x̂0 ← m + h clip(u, −r, r)/r.

    Args:
        denoiser: The denoiser whose x̂0 is clipped.
        low: Smallest value of the data.
        high: Largest value of the data.
        quantile: q, 0 < q <= 1, of dynamic thresholding (default: none).
    """

    def __init__(
        self, denoiser: Denoiser, low: float = -1.0, high: float = 1.0, quantile: float | None = None
    ) -> None:
        super().__init__(denoiser)
        if not low < high:
            raise ConfigurationError(f"ClippedDenoiser: low={low}, high={high}: low < high is needed")
        if quantile is not None and not 0 < quantile <= 1:
            raise ConfigurationError(f"ClippedDenoiser: quantile={quantile}: 0 < quantile <= 1 is needed")
        self.low = low
        self.high = high
        self.quantile = quantile

    @override
    def predict(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        return self._clip(self.denoiser.predict(x_t, level, **cond))

    @override
    def unconditional(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        return self._clip(self.denoiser.unconditional(x_t, level, **cond))

    @override
    def predict_both(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> tuple[Prediction, Prediction]:
        conditional, unconditional = self.denoiser.predict_both(x_t, level, **cond)
        return self._clip(conditional), self._clip(unconditional)

    def _clip(self, pred: Prediction) -> Prediction:
        x0 = pred.x0
        if self.quantile is not None:
            middle, half = (self.high + self.low) / 2, (self.high - self.low) / 2
            distance = (x0 - middle).abs().flatten(1).quantile(self.quantile, dim=1)
            x0 = middle + (x0 - middle) / (distance / half).clamp(min=1).reshape(-1, *(1,) * (x0.ndim - 1))
        x0 = x0.clamp(self.low, self.high)
        return Prediction(pred.x_t, pred.level, x0, _X0, pred.variance_fraction)
