"""The averaged denoiser."""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch import Tensor, nn

from scorelight.denoisers.network import NetworkDenoiser
from scorelight.errors import ConfigurationError

__all__ = ["ExponentialMovingAverage"]


class ExponentialMovingAverage(nn.Module):
    """A frozen copy of a denoiser that follows it: θ̄ ← d_n θ̄ + (1 − d_n) θ after optimizer step n.

    d_n = min(decay, (1 + n)/(10 + n)) (Song et al.'s warm-up), so that a short run does not evaluate
    its initial weights. The copy is a module of its own: nothing is ever swapped, the checkpoint
    holds both sets of weights under their names, and buffers (tables, counters) are copied, not averaged.

    Args:
        denoiser: The denoiser that is trained.
        decay: Limit of d_n, 0 <= decay < 1; 0 makes the average equal to the trained weights.
    """

    def __init__(self, denoiser: NetworkDenoiser, decay: float) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ConfigurationError(f"ema_decay={decay}: 0 <= ema_decay < 1 is needed")
        self.denoiser = copy.deepcopy(denoiser).requires_grad_(False).eval()
        self.decay = decay
        self.num_updates = 0

    @torch.no_grad()
    def update(self, denoiser: NetworkDenoiser) -> None:
        """Move towards the denoiser's present weights; call once after each optimizer step."""
        rate = 1 - min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        averaged: list[Tensor] = list(self.denoiser.parameters())
        current: list[Tensor] = list(denoiser.parameters())
        torch._foreach_lerp_(averaged, current, rate)
        for mine, theirs in zip(self.denoiser.buffers(), denoiser.buffers(), strict=True):
            mine.copy_(theirs)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode whatever the model around it does."""
        return super().train(False)

    def get_extra_state(self) -> int:
        """Number of updates, for the checkpoint."""
        return self.num_updates

    def set_extra_state(self, state: int) -> None:
        """Number of updates, from the checkpoint."""
        self.num_updates = state
