"""Training losses.

Losses are averaged over the dimensions and stated so that all of them agree with

    L = E[ w(t) λ(t) mean_d (∇log p_t(x_t) − s_θ(x_t))² ] + const           (7)

for the same λ: the same learning rate and gradient clipping suit every objective, and data of every size.
Song et al.'s ½·sum is D/2 times this. The bounds alone are sums, in nats.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from scorelight.batch import Batch
from scorelight.denoisers.base import Denoiser
from scorelight.errors import ConfigurationError
from scorelight.parameterizations import Parameterization, Score
from scorelight.processes.base import AnyLevel, ForwardProcess, NoiseLevel, Scalar
from scorelight.rng import Generators, randn_like
from scorelight.storage.component import Component
from scorelight.times import TimeSampler, UniformTime

__all__ = ["Loss", "NoisyBatch", "Objective", "Weighting", "mean_over_dims", "sample_noisy"]


class Loss(NamedTuple):
    """Loss of each example and the time it was taken at, both of shape (B,)."""

    value: Tensor
    t: Tensor


class NoisyBatch(NamedTuple):
    """Clean examples and their noisy versions at random times: the input of every loss."""

    x0: Tensor
    """Clean data, shape (B, ...)."""
    epsilon: Tensor
    """The noise ε, of x0's shape."""
    x_t: Tensor
    """α x0 + σ ε, of x0's shape."""
    level: NoiseLevel[Tensor]
    """The noise level of each example, broadcastable against x0."""
    t: Tensor
    """The time of each example, shape (B,), float64."""
    weight: Tensor
    """The weight (10) of each time, shape (B,)."""


class Objective(Component, nn.Module, ABC):
    """A training loss whose minimiser is the true score.

    A subclass writes `loss`; this base draws times and noise, applies the weight of the time sampler, and
    passes the losses to the time sampler in training.

    Args:
        time_sampler: Distribution of t (default `UniformTime`).
    """

    trains_process: bool = False
    """Whether it may train a process with parameters: its expected value must not depend on the process."""

    def __init__(self, time_sampler: TimeSampler | None = None) -> None:
        super().__init__()
        self.time_sampler: TimeSampler | None = time_sampler or UniformTime()

    @abstractmethod
    def loss(
        self, denoiser: Denoiser, noisy: NoisyBatch, *, generator: Generators = None, **cond: Any
    ) -> Tensor:
        """Loss of each example, shape (B,), without the weight of its time.

        Args:
            denoiser: What is trained; it carries the process.
            noisy: The examples, at random times.
            generator: Source of further randomness, after that of times and noise.
            **cond: Conditions for the network, e.g. ``label`` of shape (B,).
        """

    def unweighted_terms(self, denoiser: Denoiser, noisy: NoisyBatch, **cond: Any) -> Scalar:
        """Terms of each example that do not depend on its time, shape (B,) or a number; 0 by default."""
        return 0.0

    def forward(self, denoiser: Denoiser, x0: Tensor, *, generator: Generators = None, **cond: Any) -> Loss:
        """Loss per example of clean data x0, shape (B, ...), at random times.

        Args:
            denoiser: What is trained; it carries the process.
            x0: Clean data.
            generator: Source of t and the noise; a `PhiloxGenerator` makes example i reproducible.
            **cond: Conditions for the network, e.g. ``label`` of shape (B,).
        """
        process = denoiser.process
        times = self.times(process)
        noisy = sample_noisy(process, x0, times, generator)
        value = self.loss(denoiser, noisy, generator=generator, **cond)
        if times.training:
            times.observe(process, noisy.t, value.detach())
        return Loss(noisy.weight * value + self.unweighted_terms(denoiser, noisy, **cond), noisy.t)

    def check(self, process: ForwardProcess, network: nn.Module | None = None) -> None:
        """Called before training.

        Raises:
            ConfigurationError: If the objective is not defined for the process or the network.
        """
        if not self.trains_process and any(p.requires_grad for p in process.parameters()):
            raise ConfigurationError(
                f"{type(process).__name__} is learned, and the value of {type(self).__name__} depends on the "
                "process: it would learn one that is easy to denoise; use VariationalBound"
            )
        self.times(process).quantile(process, torch.tensor([0.5], dtype=torch.float64))

    def times(self, process: ForwardProcess) -> TimeSampler:
        """The distribution of t under the process."""
        assert self.time_sampler is not None
        return self.time_sampler

    def prepare(self, training_set: Callable[[], Batch]) -> None:
        """Called once before the first step, with a function that returns all training examples."""


class Weighting(Component, ABC):
    """Weight λ of a noise level in the objective."""

    space: Parameterization = Score()
    """The space of the residual, unless the objective is given another one."""

    @abstractmethod
    def __call__(self, level: AnyLevel) -> Scalar:
        """λ at the level, of the level's shape."""


def sample_noisy(
    process: ForwardProcess, x0: Tensor, time_sampler: TimeSampler, generator: Generators
) -> NoisyBatch:
    """Draw t and ε, and form x_t = α x0 + σ ε."""
    with torch.no_grad():
        t, weight = time_sampler(process, len(x0), generator=generator, device=x0.device)
    epsilon = randn_like(x0, generator)
    level = process.at(t, like=x0)
    return NoisyBatch(x0, epsilon, level.alpha * x0 + level.sigma * epsilon, level, t, weight.to(x0.dtype))


def mean_over_dims(x: Tensor) -> Tensor:
    """Mean over the dimensions of each example: shape (B, ...) to (B,)."""
    return x.flatten(1).mean(1)
