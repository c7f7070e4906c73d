"""Quadratures that are exact for polynomials: what Adams methods are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

__all__ = ["interpolatory_weights"]


Number = TypeVar("Number", float, Tensor)


def interpolatory_weights(places: Sequence[Number], moments: Sequence[Number]) -> list[Number]:
    """Weights w_j that integrate the polynomial through values at n places: Σ_j w_j r_j^k = m_k for k < n.

    By Björck & Pereyra (1970), algorithm 2, without cancellation for ordered places.

    Args:
        places: r_j, all different: floats, or tensors of one shape for as many quadratures at once.
        moments: m_k, the integrals of r^k, of the same kind.
    """
    n, w = len(places), list(moments)
    for k in range(n - 1):
        for i in range(n - 1, k, -1):
            w[i] = w[i] - places[k] * w[i - 1]
    for k in range(n - 2, -1, -1):
        for i in range(k + 1, n):
            w[i] = w[i] / (places[i] - places[i - k - 1])
        for i in range(k, n - 1):
            w[i] = w[i] - w[i + 1]
    return w
