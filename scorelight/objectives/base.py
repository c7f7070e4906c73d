"""What is minimised.

Losses are averaged over the dimensions and stated so that all of them agree with

    L = E[ w(t) λ(t) mean_d (∇log p_t(x_t) − s_θ(x_t))² ] + const           (7)

for the same λ: the same learning rate and gradient clipping serve every objective, and data of every size.
Song et al.'s ½·sum is D/2 times this. The bounds alone are sums, in nats.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from scorelight.batch import Batch
from scorelight.component import Component
from scorelight.denoiser import Denoiser
from scorelight.errors import ConfigurationError
from scorelight.parameterizations import Parameterization, Score
from scorelight.processes.base import ForwardProcess, NoiseLevel, Scalar
from scorelight.seeding import Generators, randn_like
from scorelight.times import TimeSampler

__all__ = ["Loss", "Noisy", "Objective", "Weighting", "draw"]


class Loss(NamedTuple):
    """Loss of each example and the time it was taken at, both of shape (B,)."""

    value: Tensor
    t: Tensor


class Objective(Component, nn.Module, ABC):
    """A training loss whose minimiser is the true score."""

    trains_process: bool = False
    """Whether a process with parameters may be trained by it: its value must not depend on the process."""

    @abstractmethod
    def forward(self, denoiser: Denoiser, x0: Tensor, *, generator: Generators = None, **cond: Any) -> Loss:
        """Loss per example of clean data x0, shape (B, ...).

        Args:
            denoiser: What is trained; it carries the process.
            x0: Clean data.
            generator: Where t and the noise come from; one per example makes example i reproducible.
            **cond: Conditions for the network, e.g. ``label`` of shape (B,).
        """

    def check(self, process: ForwardProcess, network: nn.Module | None = None) -> None:
        """Called before training.

        Raises:
            ConfigurationError: If the objective is not defined for the process or the network.
        """
        if not self.trains_process and any(p.requires_grad for p in process.parameters()):
            raise ConfigurationError(
                f"{type(process).__name__} is learned, and {type(self).__name__} would make it easy, not "
                "right; use VariationalBound"
            )
        if times := self.times(process):
            times.quantile(process, torch.tensor([0.5], dtype=torch.float64))

    def times(self, process: ForwardProcess) -> TimeSampler | None:
        """The distribution of t under the process: the objective's `time_sampler`, if it has one."""
        return getattr(self, "time_sampler", None)

    def prepare(self, training_set: Callable[[], Batch]) -> None:
        """Called once before the first step, with a function that gives all training examples."""


class Weighting(Component, ABC):
    """Weight λ of a noise level in the objective."""

    space: Parameterization = Score()
    """What the residual is measured in, unless the objective is told otherwise."""

    @abstractmethod
    def __call__(self, level: NoiseLevel) -> Scalar:
        """λ at the level, of the level's shape."""


class Noisy(NamedTuple):
    """Examples at random times: what every objective starts from."""

    t: Tensor
    weight: Tensor
    level: NoiseLevel
    epsilon: Tensor
    x_t: Tensor


def draw(process: ForwardProcess, x0: Tensor, time_sampler: TimeSampler, generator: Generators) -> Noisy:
    """Draw t and ε, and form x_t = α x0 + σ ε."""
    with torch.no_grad():
        t, weight = time_sampler(process, len(x0), generator=generator, device=x0.device)
    epsilon = randn_like(x0, generator)
    level = process.level(t, like=x0)
    return Noisy(t, weight.to(x0.dtype), level, epsilon, level.alpha * x0 + level.sigma * epsilon)


def regression(
    denoiser: Denoiser,
    noisy: Noisy,
    target: tuple[Tensor, Tensor],
    space: Parameterization,
    weighting: Weighting,
    time_sampler: TimeSampler,
    cond: dict[str, Any],
) -> Loss:
    """Weighted mean_d (y − y*)², y in the space and y* that of the target (x0, ε), which adds up to x_t."""
    pred = denoiser.predict(noisy.x_t, noisy.level, **cond)
    squared = weighting(noisy.level) * pred.residual(*target, space) ** 2
    value = squared.flatten(1).mean(1)
    return Loss(weighted(denoiser.process, noisy, time_sampler, value), noisy.t)


def weighted(process: ForwardProcess, noisy: Noisy, time_sampler: TimeSampler, value: Tensor) -> Tensor:
    """The loss of each example times the weight of its time; in training, the time sampler learns from it."""
    if time_sampler.training:
        time_sampler.observe(process, noisy.t, value.detach())
    return noisy.weight * value
