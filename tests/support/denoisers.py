"""Denoisers whose answer is known, perturbed or recorded."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scorelight import (
    AnalyticDenoiser,
    Denoiser,
    DenoiserWrapper,
    Epsilon,
    ForwardProcess,
    GaussianMixture,
    Parameterization,
    Prediction,
)
from scorelight.processes.base import AnyLevel


class ConstantDenoiser(Denoiser):
    """Its network output is the same whatever it is asked.

    Args:
        process: The forward process.
        output: Output of the network, of x_t's shape.
        parameterization: The units of the output.
        variance_fraction: The learned variance, if any, of x_t's shape.
    """

    def __init__(
        self,
        process: ForwardProcess,
        output: Tensor,
        parameterization: Parameterization,
        variance_fraction: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.process, self.output, self.parameterization = process, output, parameterization
        self.variance_fraction = variance_fraction

    def predict(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        """The output, whatever x_t and its level."""
        return Prediction(x_t, level, self.output, self.parameterization, self.variance_fraction)


class PerturbedDenoiser(DenoiserWrapper):
    """ε̂ of another denoiser plus a function of x_t."""

    def __init__(self, denoiser: Denoiser, perturbation: Callable[[Tensor], Tensor]) -> None:
        super().__init__(denoiser)
        self.perturbation = perturbation

    def predict(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        """The other denoiser's ε̂, perturbed."""
        epsilon = self.denoiser.predict(x_t, level, **cond).epsilon
        return Prediction(x_t, level, epsilon + self.perturbation(x_t), Epsilon())


class ConditionalGaussianDenoiser(Denoiser):
    """The exact ε̂ of N(mean, std²), with mean and std given as conditions, one for each example."""

    def __init__(self, process: ForwardProcess) -> None:
        super().__init__()
        self.process = process

    def predict(self, x_t: Tensor, level: AnyLevel, *, mean: Tensor, std: Tensor) -> Prediction:
        """E[ε | x_t] = σ (x_t − α mean)/(α² std² + σ²)."""
        assert len(mean) == len(x_t)
        variance = level.alpha**2 * std**2 + level.sigma**2
        return Prediction(x_t, level, level.sigma * (x_t - level.alpha * mean) / variance, Epsilon())


class RecordingDenoiser(DenoiserWrapper):
    """Another denoiser that keeps the levels, states and conditions of its evaluations."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser)
        self.levels: list[AnyLevel] = []
        self.states: list[Tensor] = []
        self.conditions: list[dict[str, Any]] = []

    @property
    def times(self) -> list[Any]:
        """Times of the evaluations, in their order."""
        return [level.time for level in self.levels]

    def predict(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        """Record and answer; an exact denoiser takes no conditions."""
        self.levels.append(level)
        self.states.append(x_t)
        self.conditions.append(cond)
        return self.denoiser.predict(x_t, level)


class ZeroDenoiser(Denoiser):
    """ε̂ = 0 everywhere."""

    def __init__(self, process: ForwardProcess) -> None:
        super().__init__()
        self.process = process

    def predict(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        """ε̂ = 0."""
        return Prediction(x_t, level, torch.zeros_like(x_t), Epsilon())


class GaussianPair(Denoiser):
    """p(x | c) = N(0, 1), whatever the condition, and p(x) = N(0, 2), in one dimension."""

    def __init__(self, process: ForwardProcess) -> None:
        super().__init__()
        self.process = process
        mean, ones = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        self.of_class = AnalyticDenoiser(GaussianMixture(ones, mean, ones), process)
        self.of_all = AnalyticDenoiser(GaussianMixture(ones, mean, 2 * ones), process)

    def predict(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        """Of p(x | c)."""
        return self.of_class.predict(x_t, level)

    def unconditional(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        """Of p(x)."""
        return self.of_all.predict(x_t, level)
