"""Markov chains in the noise of a deterministic sampler: exact draws of a model's own posterior.

A deterministic sampler is a function x0 = Φ(z) of unit noise, and p(x0) is its law for z ~ N(0, I). A
likelihood p(y | x0) makes a density of the noise, N(z; 0, I) p(y | Φ(z)), and Φ of its draws is p(x0 | y),
for any likelihood that can be computed. The proposals of Crank & Nicolson leave N(0, I) as it is (Cotter et
al., 2013, "MCMC methods for functions", eq. 4.3 and 4.4):

    z' = ρ z + (1 − ρ) g + β ξ,   ρ = √(1 − β²),   g = 0 or τ ∇ log p(y | Φ(z))

and are accepted with min(1, e^A),

    A = τ [log p(y | Φ(z')) − log p(y | Φ(z))] + L(z', z) − L(z, z'),
    L(z, z') = [(1 − ρ) g(z)·(z' − ρ z) − (1 − ρ)² ‖g(z)‖²/2]/β².

β = 1 proposes independently of z, and jumps between modes; small β moves where the likelihood is sharp. τ
rises from 0 to 1 in the first iterations, so that the chains find where the likelihood is large.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["ChainState", "noise_chains"]

Flow = Callable[[Tensor], Tensor]
"""x0 of unit noise, both of shape (B, ...)."""
LogLikelihood = Callable[[Tensor], Tensor]
"""log p(y | x0), shape (B,), up to a constant."""


class ChainState(NamedTuple):
    """The chains after an iteration; the examples of the batch are chains."""

    z: Tensor
    """The noise, shape (B, ...)."""
    x0: Tensor
    """Φ(z)."""
    log_likelihood: Tensor
    """log p(y | x0), shape (B,)."""
    accepted: Tensor
    """Whether the proposal was, shape (B,)."""


class _Point(NamedTuple):
    z: Tensor
    x0: Tensor
    value: Tensor
    gradient: Tensor | None


def noise_chains(
    flow: Flow,
    log_likelihood: LogLikelihood,
    z: Tensor,
    normal: Callable[[Tensor], Tensor],
    num_iterations: int,
    betas: Sequence[float] = (1.0, 0.5, 0.25, 0.1),
    warmup: int = 0,
    use_gradient: bool = False,
) -> Iterator[ChainState]:
    """Yield the chains after each iteration.

    Args:
        flow: The deterministic sampler Φ.
        log_likelihood: log p(y | x0).
        z: Standard normal noise that the chains start from, shape (B, ...).
        normal: Fresh standard normal noise like its argument.
        num_iterations: Iterations, with one evaluation of Φ each.
        betas: β of the iterations, in turn.
        warmup: Iterations in which τ rises linearly to 1; the invariant law is the posterior from then on.
        use_gradient: Whether proposals with β < 1 follow the gradient, through the sampler.
    """
    here = _evaluate(flow, log_likelihood, z, use_gradient)
    for i in range(num_iterations):
        beta, tau = betas[i % len(betas)], min((i + 1) / (warmup + 1), 1.0)
        follow = use_gradient and beta < 1
        there = _evaluate(flow, log_likelihood, _proposal(here, beta, tau, follow, normal), use_gradient)
        log_ratio = tau * (there.value - here.value)
        if follow:
            log_ratio = log_ratio + _drift(there, here.z, beta, tau) - _drift(here, there.z, beta, tau)
        log_uniform = torch.special.log_ndtr(normal(z.flatten(1)[:, 0]).double())
        accepted = log_uniform < log_ratio.nan_to_num(nan=-math.inf)
        here = _where(accepted, there, here)
        yield ChainState(here.z, here.x0, here.value, accepted)


def _evaluate(flow: Flow, log_likelihood: LogLikelihood, z: Tensor, with_gradient: bool) -> _Point:
    """Φ(z), the log-likelihood in float64, and its gradient in z."""
    if not with_gradient:
        x0 = flow(z)
        return _Point(z, x0, log_likelihood(x0).double(), None)
    with torch.inference_mode(False), torch.enable_grad():
        leaf = z.detach().clone().requires_grad_()
        x0 = flow(leaf)
        value = log_likelihood(x0)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return _Point(z, x0.detach(), value.detach().double(), gradient)


def _proposal(
    here: _Point, beta: float, tau: float, follow: bool, normal: Callable[[Tensor], Tensor]
) -> Tensor:
    rho = math.sqrt(1 - beta**2)
    mean = rho * here.z
    if follow and here.gradient is not None:
        mean = mean + (1 - rho) * tau * here.gradient
    return mean + beta * normal(here.z)


def _drift(start: _Point, end: Tensor, beta: float, tau: float) -> Tensor:
    """L(z, z'), the logarithm of the proposal's density by that of g = 0; shape (B,), float64."""
    assert start.gradient is not None
    rho = math.sqrt(1 - beta**2)
    push = ((1 - rho) * tau * start.gradient).double().flatten(1)
    step = (end - rho * start.z).double().flatten(1)
    return ((push * step).sum(1) - push.square().sum(1) / 2) / beta**2


def _where(accepted: Tensor, there: _Point, here: _Point) -> _Point:
    """There for the examples that are accepted, and here for the others."""

    def choose(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(accepted.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    gradient = None
    if there.gradient is not None and here.gradient is not None:
        gradient = choose(there.gradient, here.gradient)
    return _Point(
        choose(there.z, here.z), choose(there.x0, here.x0), choose(there.value, here.value), gradient
    )
