"""What samplers of p(x0 | y) share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from scorelight.denoisers.base import DelegatingDenoiser, Denoiser, Prediction
from scorelight.errors import ConfigurationError
from scorelight.inverse.measurement import Measurement
from scorelight.inverse.operators import LinearOperator
from scorelight.processes.base import AnyLevel, ForwardProcess
from scorelight.rng import Generators
from scorelight.samplers.ancestral import DDIM
from scorelight.samplers.base import BoundDenoiser, Levels, NoiseSource, Sampler
from scorelight.times import TimeGrid

__all__ = ["PosteriorSampler", "PosteriorScore", "ThroughSampler", "VectorJacobian"]

VectorJacobian = Callable[[Tensor], Tensor]
"""(∂x̂0/∂x_t)ᵀ v, of v of x_t's shape."""


class _WithoutMeasurement(DelegatingDenoiser):
    """A denoiser that is given the conditions of its network alone, and not the measurement."""

    @override
    def predict(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        return self.denoiser.predict(x_t, level, **_of_network(cond))

    @override
    def unconditional(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        return self.denoiser.unconditional(x_t, level, **_of_network(cond))


def _of_network(cond: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in cond.items() if name != "measurement"}


class PosteriorSampler(Sampler, ABC):
    """A sampler of p(x0 | y), or of what a method takes for it.

    It is called as every other sampler, with the condition ``measurement``: y of each example, of shape
    (B, *measured). Each example is treated by itself.

    Args:
        measurement: A and σ_y.
        num_steps: Steps in all. With `denoise`, the last of them is the posterior mean at t_min.
        grid: The times (default: `default_grid`, on a table its `NearestLevels`).
        denoise: Whether to end with E[x0 | x] at t_min.
    """

    needs_linear: bool = True
    """Whether A must be linear."""
    needs_noise: bool = False
    """Whether σ_y must be positive."""
    needs_one_noise: bool = False
    """Whether σ_y must be the same for all components of y."""

    def __init__(
        self,
        measurement: Measurement,
        num_steps: int = 100,
        grid: TimeGrid | None = None,
        denoise: bool = True,
    ) -> None:
        super().__init__(num_steps, grid, denoise)
        name = type(self).__name__
        if self.needs_linear and not isinstance(measurement.operator, LinearOperator):
            raise ConfigurationError(
                f"{name} needs a linear operator, and {type(measurement.operator).__name__} is not; take DPS "
                "or ExactPosterior"
            )
        if self.needs_noise and not measurement.noise.all():
            raise ConfigurationError(f"{name} needs noise of the measurement; give --noise 0.01 or so")
        if self.needs_one_noise and measurement.noise.ndim:
            raise ConfigurationError(
                f"{name} needs the same noise for all components of a measurement; take MMPS, PiGDM or DPS"
            )
        self.measurement = measurement

    @property
    def operator(self) -> LinearOperator:
        """A."""
        assert isinstance(self.measurement.operator, LinearOperator)
        return self.measurement.operator

    @property
    def noise_of_measurement(self) -> float:
        """σ_y."""
        return self.measurement.noise.item()

    @override
    def sample_path(
        self,
        denoiser: Denoiser,
        noise: Tensor,
        *,
        generator: Generators = None,
        noise_source: NoiseSource | None = None,
        **cond: Any,
    ) -> Iterator[Tensor]:
        self._check(noise, cond)
        yield from super().sample_path(
            self.conditioned(denoiser), noise, generator=generator, noise_source=noise_source, **cond
        )

    def conditioned(self, denoiser: Denoiser) -> Denoiser:
        """What the steps ask for predictions: by default the model, without the measurement."""
        return _WithoutMeasurement(denoiser)

    def _check(self, noise: Tensor, cond: dict[str, Any]) -> None:
        """Refuse a measurement that is missing or does not fit.

        Raises:
            ConfigurationError: In that case.
        """
        y, name = cond.get("measurement"), type(self).__name__
        if not isinstance(y, Tensor):
            raise ConfigurationError(f"{name}: which measurement? It is the condition 'measurement'")
        if tuple(noise.shape[1:]) != self.measurement.operator.shape:
            raise ConfigurationError(
                f"{name}: the model's examples have shape {tuple(noise.shape[1:])}, those of "
                f"{type(self.measurement.operator).__name__} {self.measurement.operator.shape}"
            )
        expected = self.measurement.operator(noise[:1]).shape[1:]
        if len(y) != len(noise) or y.shape[1:] != expected:
            raise ConfigurationError(
                f"{name}: measurements of shape {tuple(y.shape)}: {(len(noise), *expected)} is needed"
            )


class ThroughSampler(PosteriorSampler, ABC):
    """A method whose steps are those of another sampler.

    Args:
        measurement: A and σ_y.
        sampler: The other sampler (default: `DDIM` of 100 steps with η = 1).
    """

    def __init__(self, measurement: Measurement, sampler: Sampler | None = None) -> None:
        self.sampler = sampler or DDIM(100, eta=1.0)
        super().__init__(measurement, self.sampler.num_steps, self.sampler.grid, self.sampler.denoise)
        self.remedy = self.sampler.remedy

    @abstractmethod
    def conditioned(self, denoiser: Denoiser) -> Denoiser:
        """What the other sampler asks for predictions."""

    @override
    def levels(self, process: ForwardProcess) -> Levels:
        return self.sampler.levels(process)

    @override
    def states(
        self, predict: BoundDenoiser, x: Tensor, levels: Levels, noise: NoiseSource
    ) -> Iterator[Tensor]:
        yield from self.sampler.states(predict, x, levels, noise)

    @override
    def trajectory(
        self, predict: BoundDenoiser, x: Tensor, levels: Levels, noise: NoiseSource
    ) -> Iterator[Tensor]:
        yield from self.sampler.trajectory(predict, x, levels, noise)

    @override
    def report(self) -> list[str]:
        return self.sampler.report()


def bounded_step(measurement: Measurement, x0: Tensor, level: AnyLevel, y: Tensor, score: Tensor) -> Tensor:
    """The factor, at most 1, by which a likelihood score g must be multiplied not to overshoot y.

    The score moves x̂0 by Δ = (σ²/α) g, and A(x̂0) towards y. If g is that of a Gaussian p(x0 | x_t) with any
    covariance C, the step is at most as long as the residual, ‖A Δ‖ ≤ ‖y − A x̂0‖ in units of σ_y, since
    A C Aᵀ (A C Aᵀ + σ_y² I)⁻¹ has no eigenvalue above 1. The derivative of a trained network breaks that at
    high noise, where one step would take samples to values that the network has never seen.

    Args:
        measurement: A and σ_y.
        x0: E[x0 | x_t].
        level: The noise level of x_t.
        y: The measurements.
        score: The likelihood score g.

    Returns:
        Shape (B, 1, ...).
    """
    weight = measurement.relative_weight(y)
    before = measurement.operator(x0)
    after = measurement.operator(x0 + level.sigma**2 / level.alpha * score)
    residual, step = ((v * weight).flatten(1).norm(dim=1) for v in (y - before, after - before))
    factor = torch.where(step > residual, residual / step, 1.0)
    return factor.reshape(-1, *(1,) * (x0.ndim - 1))


class PosteriorScore(ThroughSampler, ABC):
    """∇log p_t(x_t | y) ≈ ∇log p_t(x_t) + g(x_t, y), for any sampler.

    A subclass writes g, `likelihood_score`. It is multiplied with `bounded_step`.
    """

    @abstractmethod
    def likelihood_score(self, x0: Tensor, level: AnyLevel, y: Tensor, jacobian: VectorJacobian) -> Tensor:
        """G ≈ ∇log p(y | x_t), of x0 = E[x0 | x_t] and the transpose of its derivative in x_t."""

    @override
    def conditioned(self, denoiser: Denoiser) -> Denoiser:
        return _Conditioned(denoiser, self)


class _Conditioned(DelegatingDenoiser):
    """The denoiser of p(x0 | y)."""

    def __init__(self, denoiser: Denoiser, method: PosteriorScore) -> None:
        super().__init__(denoiser)
        self.method = method

    @override
    def predict(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        with torch.inference_mode(False), torch.enable_grad():
            x = x_t.detach().clone().requires_grad_()
            pred = self.denoiser.predict(x, level, **_of_network(cond))
            x0 = pred.x0

            def jacobian(v: Tensor) -> Tensor:
                (product,) = torch.autograd.grad(x0, x, v.to(x0), retain_graph=True)
                return product

            y = cond["measurement"].clone()
            score = self.method.likelihood_score(x0.detach(), level, y, jacobian)
            score = score * bounded_step(self.method.measurement, x0.detach(), level, y, score)
        fraction = pred.variance_fraction
        fraction = None if fraction is None else fraction.detach()
        alone = replace(pred, x_t=x_t, output=pred.output.detach(), variance_fraction=fraction)
        return alone.plus_score(score.detach())
