"""Straight lines between data and noise."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from scorelight.processes.base import ForwardProcess, check_open

__all__ = ["RectifiedFlow"]


class RectifiedFlow(ForwardProcess):
    """x_t = (1 − t) x0 + t ε (Liu et al., 2023; Lipman et al., 2023, with time reversed).

    Args:
        t_min: Smallest time used; σ(t_min) = t_min, so it must be positive.
        t_max: Time of the prior, below 1, where α = 0.
    """

    def __init__(self, t_min: float = 1e-3, t_max: float = 0.999) -> None:
        super().__init__(t_min, t_max)
        check_open(t_min, t_max)

    @override
    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    @override
    def sigma(self, t: Tensor) -> Tensor:
        return t.clone()

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """σ/(α + σ)."""
        return self._within(torch.sigmoid(-0.5 * log_snr.to(torch.float64)))
