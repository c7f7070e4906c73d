"""Variational bounds on −log p(x0) as training losses: the terms (11) to (13) of `scorelight.bounds`."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scorelight.bounds import check_bound, level_term, negative_log_likelihood, prior_term
from scorelight.denoiser import Denoiser, Prediction
from scorelight.errors import ConfigurationError
from scorelight.objectives.base import Loss, Noisy, Objective, draw, weighted
from scorelight.parameterizations import Epsilon, Score
from scorelight.processes.base import ForwardProcess
from scorelight.seeding import Generators
from scorelight.times import DiscreteTime, ImportanceTime, TimeSampler
from scorelight.times.base import level_index, level_number, level_times

__all__ = ["HybridObjective", "VariationalBound"]


class VariationalBound(Objective):
    """The bound (11) on levels, (13) in continuous time: an unbiased estimate for each example, in nats.

    On levels each example gets one of the N terms after the first, N-fold; in continuous time one t and
    the last term, with two evaluations of the network.

    Args:
        num_levels: Number of levels (default: those of the process's table, else continuous time).
        variance: Variance of a step unless the network learns it: ``small`` is c², ``large`` σ²_{t|s}. At
            little noise ``large`` is exact; ``small`` costs DDPM's table 0.29 nats per dimension for any N.
        bins: Number of grey levels of the data, equally spaced from −1 to 1, each standing for the interval
            around it; the bound is then on a probability (Ho et al., 2020, eq. 13). Default: on a density.
        time_sampler: Distribution of t, which must be unbiased (default `DiscreteTime` or `ImportanceTime`).
    """

    trains_process = True

    def __init__(
        self,
        num_levels: int | None = None,
        variance: Literal["small", "large"] = "small",
        bins: int | None = None,
        time_sampler: TimeSampler | None = None,
    ) -> None:
        super().__init__()
        check_bound(variance, bins)
        if time_sampler and not time_sampler.unbiased:
            name = type(time_sampler).__name__
            raise ConfigurationError(
                f"VariationalBound: with time_sampler={name} it would be no bound; use UniformTime, "
                "StratifiedTime, ImportanceTime, or on levels DiscreteTime or LossAwareTime"
            )
        self.num_levels = num_levels
        self.variance = variance
        self.bins = bins
        self.time_sampler = time_sampler

    def forward(self, denoiser: Denoiser, x0: Tensor, *, generator: Generators = None, **cond: Any) -> Loss:
        """The bound for each example."""
        process = denoiser.process
        sampler = self.times(process)
        noisy = draw(process, x0, sampler, generator)
        pred = denoiser.predict(noisy.x_t, noisy.level, **cond)
        if sampler.num_levels_of(process):
            rest = weighted(process, noisy, sampler, self.term(process, pred, x0, noisy))
        else:
            squared = pred.residual(x0, noisy.epsilon, Score()) ** 2
            value = 0.5 * (process.t_max - process.t_min) * (noisy.level.g2 * squared).flatten(1).sum(1)
            rest = weighted(process, noisy, sampler, value) + self._last_term(denoiser, x0, noisy, cond)
        return Loss(prior_term(process, x0) + rest, noisy.t)

    def times(self, process: ForwardProcess) -> TimeSampler:
        """The time sampler, on the levels of the bound if it has levels."""
        number = process.num_levels if self.num_levels is None else self.num_levels
        if self.time_sampler is None:
            return ImportanceTime() if number is None else DiscreteTime(number)
        return _on_levels(number, self.time_sampler, process, "VariationalBound")

    def term(self, process: ForwardProcess, pred: Prediction, x0: Tensor, noisy: Noisy) -> Tensor:
        """N times the term of (11) that belongs to each example's level, shape (B,)."""
        number = level_number(process, self.num_levels, "VariationalBound")
        times = level_times(process, number, noisy.t.device)
        index = level_index(process, number, noisy.t)
        value = level_term(process, pred, x0, noisy.epsilon, times, index, self.variance, self.bins)
        return number * value

    def _last_term(self, denoiser: Denoiser, x0: Tensor, noisy: Noisy, cond: dict[str, Any]) -> Tensor:
        """−log p(x0|x_t) at t_min with p = N(x̂0, (σ/α)² I), from the noise of the main term."""
        level = denoiser.process.level(torch.full_like(noisy.t, denoiser.process.t_min), like=x0)
        pred = denoiser.predict(level.alpha * x0 + level.sigma * noisy.epsilon, level, **cond)
        return negative_log_likelihood(pred.x0, -level.log_snr, x0, self.bins)


_NO_VARIANCE = (
    "HybridObjective: the network does not learn the variance; set model.network.learned_variance to true"
)


class HybridObjective(Objective):
    """L_simple + λ L_vlb with the mean held fixed in the bound (Nichol & Dhariwal, 2021, eq. 16).

    L_simple trains the mean and L_vlb, in bits per dimension, the variance. The network must learn
    the variance: ``learned_variance: true``.

    Args:
        bound_weight: Their λ.
        num_levels: Number of levels (default: those of the process's table).
        bins: Number of grey levels of the data, see `VariationalBound`.
        time_sampler: Distribution of the level (default `DiscreteTime`).
    """

    def __init__(
        self,
        bound_weight: float = 0.001,
        num_levels: int | None = None,
        bins: int | None = None,
        time_sampler: TimeSampler | None = None,
    ) -> None:
        super().__init__()
        self.bound_weight = bound_weight
        self.bound = VariationalBound(num_levels, bins=bins)
        self.time_sampler = time_sampler or DiscreteTime(num_levels)
        if not self.time_sampler.unbiased:
            name = type(time_sampler).__name__
            raise ConfigurationError(
                f"HybridObjective: time_sampler={name}: DiscreteTime or LossAwareTime is needed"
            )

    def check(self, process: ForwardProcess, network: nn.Module | None = None) -> None:
        """Refuse a network that does not learn the variance, too."""
        super().check(process, network)
        if not getattr(network, "learned_variance", True):
            raise ConfigurationError(_NO_VARIANCE)

    def times(self, process: ForwardProcess) -> TimeSampler:
        """The time sampler, on the levels of the bound."""
        number = level_number(process, self.bound.num_levels, "HybridObjective")
        return _on_levels(number, self.time_sampler, process, "HybridObjective")

    def forward(self, denoiser: Denoiser, x0: Tensor, *, generator: Generators = None, **cond: Any) -> Loss:
        """Mean ‖ε̂ − ε‖² plus λ times the term of the bound, for each example."""
        process = denoiser.process
        noisy = draw(process, x0, self.times(process), generator)
        pred = denoiser.predict(noisy.x_t, noisy.level, **cond)
        if pred.variance_fraction is None:
            raise ConfigurationError(_NO_VARIANCE)
        simple = pred.residual(x0, noisy.epsilon, Epsilon()).square().flatten(1).mean(1)
        fixed_mean = dataclasses.replace(pred, output=pred.output.detach())
        bits = self.bound.term(process, fixed_mean, x0, noisy) / (x0[0].numel() * math.log(2))
        value = simple + self.bound_weight * bits
        return Loss(weighted(process, noisy, self.time_sampler, value), noisy.t)


def _on_levels(
    number: int | None, time_sampler: TimeSampler, process: ForwardProcess, owner: str
) -> TimeSampler:
    """The time sampler, if its levels are those of the bound: `number` of them, or no levels at all."""
    found = time_sampler.num_levels_of(process)
    if found == number:
        return time_sampler
    name, levels = type(time_sampler).__name__, f"{found} levels" if found else "no levels"
    need = (
        f"the bound {number}: use DiscreteTime or LossAwareTime with as many"
        if number
        else f"the bound is in continuous time: give {owner} num_levels={found}, or use UniformTime, "
        "StratifiedTime or ImportanceTime"
    )
    raise ConfigurationError(f"{owner}: time_sampler={name} has {levels}, {need}")
