"""How data turns into noise.

Data at t = 0, noise at t = t_max; x0 is data and ε ~ N(0, I):

    x_t = α(t) x0 + σ(t) ε                                                  (1)
    dx  = f(t) x dt + g(t) dw,   f = α'/α,   g² = 2σ(σ' − fσ)               (2)

A process writes α(t) and σ(t); this module derives the rest. (2) follows from matching the mean
and variance of (1): m' = f m and (σ²)' = 2fσ² + g² (Särkkä & Solin, 2019, eq. 5.50–5.51).
"""

from __future__ import annotations

import functools
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

import torch
from torch import Tensor, nn

from scorelight.errors import ConfigurationError
from scorelight.storage.component import Component

__all__ = ["AnyLevel", "ForwardProcess", "NoiseLevel", "Scalar", "log"]

Scalar = float | Tensor
"""A Python float (one level for the batch) or a Tensor that broadcasts against the data."""

S = TypeVar("S", float, Tensor)
U = TypeVar("U", float, Tensor)


@overload
def log(value: float) -> float: ...
@overload
def log(value: Tensor) -> Tensor: ...
def log(value: Scalar) -> Scalar:
    """The natural logarithm of a positive scalar."""
    return value.log() if isinstance(value, Tensor) else math.log(value)


@dataclass(frozen=True, slots=True)
class NoiseLevel(Generic[S]):
    """The process at one time: α, σ and their derivatives, as floats or as tensors that broadcast over data.

    `ForwardProcess.grid_levels` returns floats, for sampling: computed once, on the host. `ForwardProcess.at`
    returns tensors, for training: a time for each example. The algebra is the same.
    """

    time: S
    alpha: S
    sigma: S
    dalpha: S
    dsigma: S

    @property
    def f(self) -> S:
        """Drift coefficient f = α'/α of equation (2)."""
        return self.dalpha / self.alpha

    @property
    def g2(self) -> S:
        """Squared diffusion coefficient g² = 2σ(σ' − fσ) of equation (2)."""
        return 2 * self.sigma * (self.dsigma - self.f * self.sigma)

    @property
    def snr(self) -> S:
        """Signal-to-noise ratio α²/σ²."""
        return (self.alpha / self.sigma) ** 2

    @property
    def log_snr(self) -> S:
        """log(α²/σ²), decreasing in t."""
        return 2 * log(self.alpha / self.sigma)

    @property
    def angle(self) -> S:
        """θ = arctan(σ/α), from 0 (data) to π/2 (noise)."""
        if isinstance(self.sigma, Tensor):
            return torch.atan2(self.sigma, self.alpha)
        return math.atan2(self.sigma, self.alpha)

    @property
    def length(self) -> S:
        """√(α² + σ²), the norm of the coefficients of equation (1)."""
        length: S = (self.alpha**2 + self.sigma**2) ** 0.5
        return length

    def map(self, function: Callable[[S], U]) -> NoiseLevel[U]:
        """The level with a function applied to each of its five numbers."""
        numbers = self.time, self.alpha, self.sigma, self.dalpha, self.dsigma
        return NoiseLevel(*map(function, numbers))


AnyLevel = NoiseLevel[float] | NoiseLevel[Tensor]
"""A level of floats or of tensors."""


def check_sigmas(sigma_min: float, sigma_max: float) -> None:
    """Raise unless 0 < σ_min < σ_max < ∞."""
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ConfigurationError(
            f"sigma_min={sigma_min}, sigma_max={sigma_max}: 0 < sigma_min < sigma_max is needed"
        )


def check_open(t_min: float, t_max: float) -> None:
    """Raise unless 0 < t_min and t_max < 1, for a process with σ(0) = 0 and α(1) = 0."""
    if t_min <= 0 or t_max >= 1:
        raise ConfigurationError(f"t_min={t_min}, t_max={t_max}: 0 < t_min and t_max < 1 are needed")


@functools.cache
def _load_jvp() -> None:
    """Import what `torch.func.jvp` needs, without the warning about torch's own use of torch.jit.script."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.func.jvp(torch.exp, (torch.zeros(()),), (torch.ones(()),))


def _jvp(function: Callable[[Tensor], Tensor], t: Tensor) -> tuple[Tensor, Tensor]:
    """Value and derivative of an elementwise function, differentiable themselves."""
    _load_jvp()
    value, derivative, *_ = torch.func.jvp(function, (t,), (torch.ones_like(t),))
    return value, derivative


def _vjp(function: Callable[[Tensor], Tensor], t: Tensor) -> tuple[Tensor, Tensor]:
    """Value and derivative, as constants: takes a tenth of the time, and works in inference mode too."""
    with torch.inference_mode(False), torch.enable_grad():
        t = t.detach().clone().requires_grad_()
        value = function(t)
        if not value.requires_grad:  # α = 1
            return value, torch.zeros_like(value)
        (derivative,) = torch.autograd.grad(value, t, torch.ones_like(value))
    return value.detach(), derivative


def _broadcast(value: Tensor, like: Tensor) -> Tensor:
    """From shape (B,) or () to (B, 1, ...), in the type of `like`."""
    return value.to(like.dtype).expand(len(like)).reshape(-1, *(1,) * (like.ndim - 1))


class ForwardProcess(Component, nn.Module, ABC):
    """A Gaussian noising process, equation (1). Write `alpha` and `sigma`; everything else follows.

    Args:
        t_min: Smallest time used for training, sampling and likelihood alike; σ(t_min) must be positive.
        t_max: Time of the prior, at most 1.
    """

    num_timesteps: int | None = None
    """Number of entries of the table of noise levels; None for a process in continuous time."""

    def __init__(self, t_min: float = 1e-3, t_max: float = 1.0) -> None:
        super().__init__()
        if not 0 <= t_min < t_max <= 1:
            raise ConfigurationError(f"t_min={t_min}, t_max={t_max}: 0 <= t_min < t_max <= 1 is needed")
        self.t_min = t_min
        self.t_max = t_max

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Scale α(t) of the data, elementwise in t (float64, any shape)."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation σ(t) of the noise, elementwise in t (float64, any shape)."""

    def at(self, t: Tensor, like: Tensor | None = None) -> NoiseLevel[Tensor]:
        """The noise level at each time. The only place that broadcasts t.

        Args:
            t: Times: of any shape, or with `like` of shape (B,) or ().
            like: Data of shape (B, ...): the level then broadcasts against it, in its type and on its device;
                without, it is of t's shape, in float64.
        """
        if like is not None:
            return self.at(t.to(like.device)).map(functools.partial(_broadcast, like=like))
        t = t.to(torch.float64)
        trained = t.requires_grad or any(p.requires_grad for p in self.parameters())
        derive = _jvp if trained and torch.is_grad_enabled() else _vjp
        alpha, dalpha = derive(self.alpha, t)
        sigma, dsigma = derive(self.sigma, t)
        return NoiseLevel(t, alpha, sigma, dalpha, dsigma)

    def grid_levels(self, times: Tensor) -> list[NoiseLevel[float]]:
        """One level of Python floats (double precision) per time of the grid, shape (N,)."""
        with torch.no_grad():
            exact = self.at(times.detach().cpu())
            columns = (exact.time, exact.alpha, exact.sigma, exact.dalpha, exact.dsigma)
            return [NoiseLevel(*row) for row in torch.stack(columns, dim=1).tolist()]

    def end_levels(self) -> tuple[NoiseLevel[float], NoiseLevel[float]]:
        """The levels at t_min and t_max, in floats."""
        clean, noisy = self.grid_levels(torch.tensor([self.t_min, self.t_max], dtype=torch.float64))
        return clean, noisy

    def at_angle(self, theta: Tensor, like: Tensor) -> NoiseLevel[Tensor]:
        """The level at which arctan(σ/α) = θ, for θ of shape (B,); broadcastable against `like`."""
        with torch.no_grad():
            return self.at(self.time_of_log_snr(-2 * theta.tan().log()), like=like)

    def perturb(self, x0: Tensor, epsilon: Tensor, t: Tensor) -> Tensor:
        """x_t of equation (1): x0, ε of shape (B, ...), t of shape (B,)."""
        level = self.at(t, like=x0)
        return level.alpha * x0 + level.sigma * epsilon

    def prior_log_prob(self, x: Tensor) -> Tensor:
        """Log N(x; 0, σ(t_max)² I) in nats, shape (B,): the density that sampling starts from."""
        sigma = self.sigma(torch.tensor(self.t_max, dtype=torch.float64))
        log_normal = (
            -0.5 * (x.double() / sigma.item()) ** 2 - sigma.log().item() - 0.5 * math.log(2 * math.pi)
        )
        return log_normal.flatten(1).sum(1)

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """The time in [t_min, t_max] at which log(α²/σ²) has the given value; out of range, the nearer end.

        By bisection in float64, for a process that has no closed form. Any shape.
        """
        target = log_snr.to(torch.float64)
        low = torch.full_like(target, self.t_min)
        high = torch.full_like(target, self.t_max)
        for _ in range(60):
            middle = (low + high) / 2
            later = self.log_snr(middle) > target
            low, high = torch.where(later, middle, low), torch.where(later, high, middle)
        return (low + high) / 2

    def log_snr(self, t: Tensor) -> Tensor:
        """The logarithm of α²/σ², elementwise in t, without the derivatives that `at` takes."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def _within(self, t: Tensor) -> Tensor:
        return t.clamp(self.t_min, self.t_max)
