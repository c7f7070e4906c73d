"""The number of evaluations that a sampler takes."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from typing_extensions import override

from scorelight.denoisers.base import DelegatingDenoiser, Denoiser, Prediction
from scorelight.processes.base import AnyLevel

__all__ = ["CountingDenoiser"]


class CountingDenoiser(DelegatingDenoiser):
    """Counts the evaluations of networks that the predictions of another denoiser take, for each example.

    They are in `num_evaluations`: of a guided denoiser more than the calls, see `Denoiser.evaluations`.

    Args:
        denoiser: The denoiser whose evaluations are counted.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser)
        self.num_evaluations = 0

    @override
    def predict(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        self.num_evaluations += self.denoiser.evaluations(level)
        return self.denoiser.predict(x_t, level, **cond)

    @override
    def unconditional(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        self.num_evaluations += 1
        return self.denoiser.unconditional(x_t, level, **cond)

    @override
    def predict_both(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> tuple[Prediction, Prediction]:
        self.num_evaluations += 2
        return self.denoiser.predict_both(x_t, level, **cond)
