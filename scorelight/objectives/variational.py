"""Variational bounds on −log p(x0) as losses, by (11) to (13) of `scorelight.likelihood.bounds`."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scorelight.denoisers.base import Denoiser, Prediction
from scorelight.errors import ConfigurationError
from scorelight.likelihood.bounds import check_bound, level_term, negative_log_likelihood, prior_term
from scorelight.objectives.base import NoisyBatch, Objective, mean_over_dims
from scorelight.parameterizations import Epsilon, Score
from scorelight.processes.base import ForwardProcess, Scalar
from scorelight.rng import Generators
from scorelight.times import DiscreteTime, ImportanceTime, TimeSampler
from scorelight.times.base import resolve_num_timesteps, timestep_index, timestep_times

__all__ = ["HybridObjective", "VariationalBound"]

_EPSILON, _SCORE = Epsilon(), Score()


class VariationalBound(Objective):
    """The bound (11) on timesteps, (13) in continuous time: an unbiased estimate for each example, in nats.

    On timesteps each example gets N times one of the N terms after the first; in continuous time one t and
    the last term, with two evaluations of the network.

    Args:
        num_timesteps: Number of timesteps (default: the process's table, else continuous time).
        variance: Variance of a step unless the network learns it: ``small`` is c², ``large`` σ²_{t|s}. At
            little noise ``large`` is exact; ``small`` costs DDPM's table 0.29 nats per dimension for any N.
        num_bins: Number of grey levels of the data, equally spaced from −1 to 1, each standing for the
            interval around it; the bound is then on a probability (Ho et al., 2020, eq. 13). Default: on a
            density.
        time_sampler: Distribution of t, which must be unbiased (default `DiscreteTime` or `ImportanceTime`).
    """

    trains_process = True

    def __init__(
        self,
        num_timesteps: int | None = None,
        variance: Literal["small", "large"] = "small",
        num_bins: int | None = None,
        time_sampler: TimeSampler | None = None,
    ) -> None:
        super().__init__(time_sampler)
        check_bound(variance, num_bins)
        if time_sampler and not time_sampler.unbiased:
            name = type(time_sampler).__name__
            raise ConfigurationError(
                f"VariationalBound: with time_sampler={name} it would be no bound; use UniformTime, "
                "StratifiedTime, ImportanceTime, or on timesteps DiscreteTime or LossAwareTime"
            )
        self.num_timesteps = num_timesteps
        self.variance = variance
        self.num_bins = num_bins
        self.time_sampler = time_sampler

    def loss(
        self, denoiser: Denoiser, noisy: NoisyBatch, *, generator: Generators = None, **cond: Any
    ) -> Tensor:
        """N times the term of (11) at the timestep, or the integrand of (13) times t_max − t_min."""
        process = denoiser.process
        pred = denoiser.predict(noisy.x_t, noisy.level, **cond)
        if self._is_discrete(process):
            return self.term(process, pred, noisy)
        squared = pred.residual(noisy.x0, noisy.epsilon, _SCORE) ** 2
        return 0.5 * (process.t_max - process.t_min) * (noisy.level.g2 * squared).flatten(1).sum(1)

    def unweighted_terms(self, denoiser: Denoiser, noisy: NoisyBatch, **cond: Any) -> Scalar:
        """The prior's term, and in continuous time the decoder's."""
        prior = prior_term(denoiser.process, noisy.x0)
        return prior if self._is_discrete(denoiser.process) else prior + self._decoder(denoiser, noisy, cond)

    def _is_discrete(self, process: ForwardProcess) -> bool:
        return self.times(process).num_timesteps_of(process) is not None

    def times(self, process: ForwardProcess) -> TimeSampler:
        """The time sampler, on the timesteps of the bound if it has any."""
        number = process.num_timesteps if self.num_timesteps is None else self.num_timesteps
        if self.time_sampler is None:
            return ImportanceTime() if number is None else DiscreteTime(number)
        return _on_timesteps(number, self.time_sampler, process, "VariationalBound")

    def term(self, process: ForwardProcess, pred: Prediction, noisy: NoisyBatch) -> Tensor:
        """N times the term of (11) that belongs to each example's timestep, shape (B,)."""
        number = resolve_num_timesteps(process, self.num_timesteps, "VariationalBound")
        times = timestep_times(process, number, noisy.t.device)
        index = timestep_index(process, number, noisy.t)
        value = level_term(process, pred, noisy.x0, noisy.epsilon, times, index, self.variance, self.num_bins)
        return number * value

    def _decoder(self, denoiser: Denoiser, noisy: NoisyBatch, cond: dict[str, Any]) -> Tensor:
        """−log p(x0|x_t) at t_min with p = N(x̂0, (σ/α)² I), from the noise of the main term."""
        x0 = noisy.x0
        level = denoiser.process.at(torch.full_like(noisy.t, denoiser.process.t_min), like=x0)
        pred = denoiser.predict(level.alpha * x0 + level.sigma * noisy.epsilon, level, **cond)
        return negative_log_likelihood(pred.x0, -level.log_snr, x0, self.num_bins)


_NO_VARIANCE = (
    "HybridObjective: the network does not learn the variance; set model.network.learned_variance to true"
)


class HybridObjective(Objective):
    """L_simple + λ L_vlb with the mean held fixed in the bound (Nichol & Dhariwal, 2021, eq. 16).

    L_simple trains the mean and L_vlb, in bits per dimension, the variance. The network must learn
    the variance: ``learned_variance: true``.

    Args:
        bound_weight: Their λ.
        num_timesteps: Number of timesteps (default: those of the process's table).
        num_bins: Number of grey levels of the data, see `VariationalBound`.
        time_sampler: Distribution of the timestep (default `DiscreteTime`).
    """

    def __init__(
        self,
        bound_weight: float = 0.001,
        num_timesteps: int | None = None,
        num_bins: int | None = None,
        time_sampler: TimeSampler | None = None,
    ) -> None:
        sampler = time_sampler or DiscreteTime(num_timesteps)
        super().__init__(sampler)
        self.bound_weight = bound_weight
        self.bound = VariationalBound(num_timesteps, num_bins=num_bins)
        if not sampler.unbiased:
            name = type(time_sampler).__name__
            raise ConfigurationError(
                f"HybridObjective: time_sampler={name}: DiscreteTime or LossAwareTime is needed"
            )

    def check(self, process: ForwardProcess, network: nn.Module | None = None) -> None:
        """Also refuse a network that does not learn the variance."""
        super().check(process, network)
        if not getattr(network, "learned_variance", True):
            raise ConfigurationError(_NO_VARIANCE)

    def times(self, process: ForwardProcess) -> TimeSampler:
        """The time sampler, on the timesteps of the bound."""
        number = resolve_num_timesteps(process, self.bound.num_timesteps, "HybridObjective")
        return _on_timesteps(number, super().times(process), process, "HybridObjective")

    def loss(
        self, denoiser: Denoiser, noisy: NoisyBatch, *, generator: Generators = None, **cond: Any
    ) -> Tensor:
        """Mean ‖ε̂ − ε‖² plus λ times the term of the bound, for each example."""
        pred = denoiser.predict(noisy.x_t, noisy.level, **cond)
        if pred.variance_fraction is None:
            raise ConfigurationError(_NO_VARIANCE)
        simple = mean_over_dims(pred.residual(noisy.x0, noisy.epsilon, _EPSILON).square())
        fixed_mean = dataclasses.replace(pred, output=pred.output.detach())
        bound = self.bound.term(denoiser.process, fixed_mean, noisy)
        return simple + self.bound_weight * (bound / (noisy.x0[0].numel() * math.log(2)))


def _on_timesteps(
    number: int | None, time_sampler: TimeSampler, process: ForwardProcess, owner: str
) -> TimeSampler:
    """The time sampler, after a check that it has as many timesteps as the bound; None in continuous time."""
    actual = time_sampler.num_timesteps_of(process)
    if actual == number:
        return time_sampler
    name, timesteps = type(time_sampler).__name__, f"{actual} timesteps" if actual else "no timesteps"
    need = (
        f"the bound {number}: use DiscreteTime or LossAwareTime with as many"
        if number
        else f"the bound is in continuous time: give {owner} num_timesteps={actual}, or use UniformTime, "
        "StratifiedTime or ImportanceTime"
    )
    raise ConfigurationError(f"{owner}: time_sampler={name} has {timesteps}, {need}")
