"""Whether Markov chains have mixed, and how many independent draws they are worth."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["effective_sample_size", "split_r_hat"]


def split_r_hat(trace: Tensor) -> float:
    """√((W (n − 1)/n + B/n)/W): 1 for chains that have mixed (Gelman et al., 2013, sec. 11.4).

    Of the half chains, of n iterations each, B is n times the variance of their means, and W the mean of
    their variances.

    Args:
        trace: A scalar of every iteration and chain, shape (N, chains), N >= 4.

    Returns:
        NaN if the scalar is constant.
    """
    halves = _halves(trace)
    n = len(halves)
    within = halves.var(0).mean().item()
    between = n * halves.mean(0).var().item()
    return math.sqrt((within * (n - 1) / n + between / n) / within) if within > 0 else math.nan


def effective_sample_size(trace: Tensor) -> float:
    """M N/(1 + 2 Σ_t ρ_t) of M chains of N iterations (Geyer, 1992; Gelman et al., 2013, sec. 11.5).

    The sum ends where the sum of two neighbouring autocorrelations, over the half chains, is negative.

    Args:
        trace: A scalar of every iteration and chain, shape (N, chains), N >= 4.

    Returns:
        NaN if the scalar is constant.
    """
    halves = _halves(trace)
    n, m = halves.shape
    within = halves.var(0).mean().item()
    if not within > 0:
        return math.nan
    pooled = within * (n - 1) / n + halves.mean(0).var().item()
    centred = halves - halves.mean(0)
    spectrum = torch.fft.rfft(centred, n=2 * n, dim=0).abs().square()
    covariance = torch.fft.irfft(spectrum, n=2 * n, dim=0)[:n].mean(1) / n
    rho = (1 - (within * (n - 1) / n - covariance) / pooled).tolist()
    total, pair = 0.0, math.inf
    for t in range(0, n - 1, 2):
        pair = min(pair, rho[t] + rho[t + 1])  # it decreases for a reversible chain (Geyer, 1992)
        if pair < 0:
            break
        total += pair
    return m * n / max(2 * total - 1, 1 / math.log10(max(m * n, 11)))


def _halves(trace: Tensor) -> Tensor:
    """The first and the second half of every chain as chains, shape (N/2, 2 chains), float64."""
    n = len(trace) // 2
    return torch.cat([trace[:n], trace[-n:]], 1).double()
