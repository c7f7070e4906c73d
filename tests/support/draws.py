"""Reproducible random numbers."""

import torch
from torch import Tensor


def seeded(seed: int = 0) -> torch.Generator:
    """A new generator with a seed."""
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers of a seed."""
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)
