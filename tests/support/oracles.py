"""Closed forms and statistical checks."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from scorelight import ForwardProcess, GaussianMixture


def marginal_at_t_max(density: GaussianMixture, process: ForwardProcess) -> Callable[[Tensor], Tensor]:
    """log p of x_t at t_max for data of this density, to replace the prior N(0, σ² I)."""
    level = process.grid_levels(torch.tensor([process.t_max]))[0]
    return lambda x: density.log_prob(x, level.alpha, level.sigma)


def gauss_legendre(num: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss-Legendre quadrature on [0, 1]."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(num))
    return (nodes + 1) / 2, weights / 2


def mean_is_zero(values: Tensor, detectable: float = math.inf) -> bool:
    """Whether the mean is 0 within 5 standard errors, which must be smaller than a detectable value."""
    five = 5 * values.std().item() / math.sqrt(len(values))
    return abs(values.mean().item()) < five < abs(detectable)
