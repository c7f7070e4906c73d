"""How the network of a denoiser is computed: in bf16, or compiled. Both change samples by their rounding."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from scorelight.denoisers.base import DelegatingDenoiser, Denoiser, Prediction
from scorelight.networks.base import ScoreNetwork
from scorelight.processes.base import AnyLevel

__all__ = ["AutocastDenoiser", "CompiledDenoiser", "Precision", "executed"]

Precision = Literal["32-true", "bf16-mixed"]
"""Lightning's names: all in float32, or matrix products and convolutions in bf16."""


class AutocastDenoiser(DelegatingDenoiser):
    """Another denoiser, whose matrix products and convolutions are computed in bf16 (``bf16-mixed``).

    Weights, the states of the sampler and the prediction stay in float32. bf16 has 8 significant bits: each
    product has a relative error of up to 2⁻⁹, which can differ between sizes of the batch.

    Args:
        denoiser: The denoiser, with its guidance if it has one.
    """

    @override
    def predict(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        with torch.autocast(x_t.device.type, torch.bfloat16):
            return self.denoiser.predict(x_t, level, **cond)

    @override
    def unconditional(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        with torch.autocast(x_t.device.type, torch.bfloat16):
            return self.denoiser.unconditional(x_t, level, **cond)


class CompiledDenoiser(DelegatingDenoiser):
    """Another denoiser, whose networks are compiled by `torch.compile`, in place: they stay so.

    Compiled code adds and rounds in another order; differences are of the size of float32's rounding.

    Args:
        denoiser: The denoiser, with its guidance if it has one.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser)
        for part in denoiser.modules():
            if isinstance(part, ScoreNetwork):
                part.compile()

    @override
    def predict(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        return self.denoiser.predict(x_t, level, **cond)


def executed(denoiser: Denoiser, precision: Precision, compiled: bool) -> Denoiser:
    """The denoiser, wrapped by what the settings ask for; itself in float32 and not compiled."""
    denoiser = CompiledDenoiser(denoiser) if compiled else denoiser
    return AutocastDenoiser(denoiser) if precision == "bf16-mixed" else denoiser
