"""Differential equations with known behaviour, for integrators."""

import torch
from torch import Tensor

RATES = torch.tensor([0.1, 1.0, 10.0, 300.0], dtype=torch.float64)
"""Rates of `decay`, from easy to stiff."""


def decay(t: Tensor, y: Tensor, index: Tensor) -> Tensor:
    """y' = −λ (y − cos t) − sin t, solved by cos t from y(0) = 1 for every λ."""
    rate = RATES[index][:, None]
    return -rate * (y - t.cos()[:, None]) - t.sin()[:, None]


def brusselator(t: Tensor, y: Tensor, index: Tensor | None) -> Tensor:
    """The Brusselator with A = 1 and B = 3, a limit cycle."""
    a, b = y[:, 0], y[:, 1]
    return torch.stack([1 + a**2 * b - 4 * a, 3 * a - a**2 * b], 1)
