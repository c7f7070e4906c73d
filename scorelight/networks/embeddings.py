"""Embeddings of the noise level and of the class."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["ConditionEmbedding", "FourierEmbedding", "LevelEmbedding", "PositionalEmbedding"]


class ConditionEmbedding(nn.Module):
    """The vector that conditions a network: noise level plus class, whose last row stands for no class.

    Args:
        dim: Size of the vector.
        num_classes: Number of classes, if any.
        level: Embeds the noise level (default `LevelEmbedding`).
    """

    def __init__(self, dim: int, num_classes: int | None, level: nn.Module | None = None) -> None:
        super().__init__()
        self.level = level or LevelEmbedding(dim)
        self.label = nn.Embedding(num_classes + 1, dim) if num_classes else None

    def forward(self, noise_label: Tensor, label: Tensor | None) -> Tensor:
        """Embed labels of shape (B,) as (B, dim)."""
        embedded: Tensor = self.level(noise_label)
        if self.label is None:
            return embedded
        if label is None:
            label = torch.full_like(noise_label, self.label.num_embeddings - 1, dtype=torch.long)
        embedded = embedded + self.label(label)
        return embedded


class LevelEmbedding(nn.Module):
    """Sines and cosines of the noise label, then two layers: a vector per noise level.

    Frequencies are geometric from 1/8 to 8 radians per unit of log(σ/α). This resolves 0.1 in log σ, and
    is smooth over the range of noise levels, about −9 to 6.

    Args:
        dim: Size of the vector; a multiple of 2.
    """

    frequencies: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        exponents = torch.linspace(-1, 1, dim // 2)
        self.register_buffer("frequencies", 8**exponents, persistent=False)
        self.mlp = _mlp(2 * (dim // 2), dim)

    def forward(self, noise_label: Tensor) -> Tensor:
        """Embed labels of shape (B,) as (B, dim)."""
        angles = noise_label[:, None] * self.frequencies.to(noise_label.dtype)
        embedded: Tensor = self.mlp(math.sqrt(2) * torch.cat([angles.sin(), angles.cos()], dim=1))
        return embedded


class PositionalEmbedding(nn.Module):
    """Ho et al.'s (2020) embedding of a step 0 to 1000: sin and cos of n/10000^(i/(m − 1)), then two layers.

    Here n = 50 (log(σ/α) + 14): 0 to 1000 for log(σ/α) from −14, where sub-VP begins at t = 1e-5, to 6. The
    highest frequency is 50 radians per unit of log(σ/α). For a network that was trained with other labels n,
    such as 999 t, the noise label is n/50 − 14 (`Parameterization.noise_label`).

    Args:
        features: Sines and cosines, 2m of them.
        dim: Size of the vector.
    """

    frequencies: Tensor

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        exponents = torch.linspace(0, 1, features // 2)
        self.register_buffer("frequencies", 10000**-exponents, persistent=False)
        self.mlp = _mlp(2 * (features // 2), dim)

    def forward(self, noise_label: Tensor) -> Tensor:
        """Embed labels of shape (B,) as (B, dim)."""
        angles = 50 * (noise_label[:, None] + 14) * self.frequencies
        embedded: Tensor = self.mlp(torch.cat([angles.sin(), angles.cos()], dim=1))
        return embedded


class FourierEmbedding(nn.Module):
    """Sines and cosines of 2π w log(σ/α) at fixed random frequencies w ~ N(0, scale²), then two layers.

    Tancik et al. (2020), used for log σ by Song et al. (2021, app. H). The frequencies are stored in the
    checkpoint, since the weights belong to them.

    Args:
        features: Number of frequencies.
        dim: Size of the vector.
        scale: Standard deviation of the frequencies.
    """

    frequencies: Tensor

    def __init__(self, features: int, dim: int, scale: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("frequencies", scale * torch.randn(features))
        self.mlp = _mlp(2 * features, dim)

    def forward(self, noise_label: Tensor) -> Tensor:
        """Embed labels of shape (B,) as (B, dim)."""
        angles = 2 * math.pi * noise_label[:, None] * self.frequencies
        embedded: Tensor = self.mlp(torch.cat([angles.sin(), angles.cos()], dim=1))
        return embedded


def _mlp(features: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, dim), nn.SiLU(), nn.Linear(dim, dim))
