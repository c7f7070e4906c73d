"""What a network is to scorelight, and the time conditioning that all of them share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scorelight.component import Component

__all__ = ["LevelEmbedding", "ScoreNetwork"]


class ScoreNetwork(Component, nn.Module, ABC):
    """A network of a noisy example and its noise level.

    Args:
        shape: Shape of one example, (D,) or (C, H, W); the command line fills it in from the data.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    @abstractmethod
    def forward(self, x: Tensor, noise_label: Tensor, label: Tensor | None = None) -> Tensor:
        """Output like x.

        Args:
            x: Scaled noisy data, shape (B, *shape).
            noise_label: log(σ/α) of each example, shape (B,).
            label: Class of each example, shape (B,), for networks that are conditioned on it.
        """


class LevelEmbedding(nn.Module):
    """Sines and cosines of the noise label, then two layers: a vector per noise level.

    Frequencies are geometric from 1/8 to 8 radians per unit of log(σ/α); this resolves 0.1 in log σ, and
    is smooth from one end of the schedule (about −9) to the other (about 6).

    Args:
        dim: Size of the vector; a multiple of 2.
    """

    frequencies: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        exponents = torch.linspace(-1, 1, dim // 2)
        self.register_buffer("frequencies", 8**exponents, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * (dim // 2), dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, noise_label: Tensor) -> Tensor:
        """Embed labels of shape (B,) as (B, dim)."""
        angles = noise_label[:, None] * self.frequencies.to(noise_label.dtype)
        embedded: Tensor = self.mlp(math.sqrt(2) * torch.cat([angles.sin(), angles.cos()], dim=1))
        return embedded
