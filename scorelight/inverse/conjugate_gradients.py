"""Linear systems that are given by products with their matrix."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["conjugate_gradients"]


def conjugate_gradients(matrix: Callable[[Tensor], Tensor], b: Tensor, num_iterations: int) -> Tensor:
    """An approximate M⁻¹ b of each example, M symmetric and positive (Hestenes & Stiefel, 1952).

    An example whose residual has become 0 stays as it is.

    Args:
        matrix: Multiplies with M.
        b: Shape (B, ...).
        num_iterations: Iterations, one product each.
    """
    x, r = torch.zeros_like(b), b
    p, rr = r, _dot(r, r)
    for _ in range(num_iterations):
        product = matrix(p)
        curvature = _dot(p, product)
        step = torch.where(curvature > 0, rr / curvature, 0)
        x, r = x + step * p, r - step * product
        after = _dot(r, r)
        p, rr = r + torch.where(rr > 0, after / rr, 0) * p, after
    return x


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Of each example, shape (B, 1, ...)."""
    return (a * b).sum(tuple(range(1, a.ndim)), keepdim=True)
