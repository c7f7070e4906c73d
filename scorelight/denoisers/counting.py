"""The cost of a sampler, measured."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from scorelight.denoisers.base import Denoiser, DenoiserWrapper, Prediction
from scorelight.processes.base import AnyLevel

__all__ = ["CountingDenoiser"]


class CountingDenoiser(DenoiserWrapper):
    """Another denoiser that counts how often it is evaluated.

    Around a guided denoiser it counts the calls of the sampler, inside it those of the network.

    Args:
        denoiser: The denoiser that answers.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser)
        self.num_evaluations = 0

    def predict(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        """One evaluation more, of the whole batch."""
        self.num_evaluations += 1
        return self.denoiser.predict(x_t, level, **cond)

    def unconditional(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        """One evaluation more, of the whole batch, without conditions."""
        self.num_evaluations += 1
        return self.denoiser.unconditional(x_t, level, **cond)
