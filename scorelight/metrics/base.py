"""What a metric is, of samples against real examples and of examples; and the number that it results in."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from scorelight.denoisers.base import Denoiser
from scorelight.errors import ConfigurationError, SolverError
from scorelight.likelihood.dequantization import Dequantizer
from scorelight.metrics.statistics import FeatureSet
from scorelight.rng import Generators
from scorelight.storage.component import Component

__all__ = [
    "LikelihoodMetric",
    "Metric",
    "MetricInputs",
    "MetricResult",
    "SampleQualityMetric",
    "check_distinct",
    "check_numbers",
    "numbers_of",
]


@dataclass(frozen=True, slots=True)
class MetricResult:
    """One number of the table."""

    value: float
    """Mean over the seeds."""
    standard_error: float | None
    """Standard error of the mean over `over`; None where there is only one."""
    over: str
    """``seeds`` or ``examples``."""
    each: list[float]
    """The number for each seed."""

    @classmethod
    def over_seeds(cls, each: list[float]) -> MetricResult:
        """Mean and standard error of one number per seed."""
        mean = sum(each) / len(each)
        if len(each) < 2:
            return cls(mean, None, "seeds", each)
        spread = math.sqrt(sum((v - mean) ** 2 for v in each) / (len(each) - 1))
        return cls(mean, spread / math.sqrt(len(each)), "seeds", each)

    @classmethod
    def over_examples(cls, values: Tensor) -> MetricResult:
        """Mean and standard error of values of shape (seeds, examples): examples differ more than seeds."""
        mean = values.double().mean(0)
        error = mean.std().item() / math.sqrt(len(mean)) if len(mean) > 1 else None
        return cls(mean.mean().item(), error, "examples", values.double().mean(1).tolist())


class MetricInputs(Protocol):
    """What a metric can ask of an evaluation: `scorelight.evaluation.Evaluator`."""

    def require_samples(self, metric: SampleQualityMetric) -> None:
        """Note, before any sample is drawn, that the metric will ask for `sample_numbers`."""

    def sample_numbers(self, metric: SampleQualityMetric) -> list[dict[str, float]]:
        """The numbers of the metric for the samples of each seed."""

    def require_examples(self, metric: LikelihoodMetric) -> None:
        """Note, before anything is computed, that the metric will ask for `example_values`."""

    def example_values(self, metric: LikelihoodMetric) -> list[dict[str, Tensor]]:
        """The values of the metric for each validation example, for each seed."""


class Metric(Component, ABC):
    """A measure of a model: it takes what it needs from an evaluation."""

    def prepare(self, inputs: MetricInputs) -> None:
        """Called for all metrics before the first is evaluated: refuse what would fail after hours."""
        return

    @abstractmethod
    def evaluate(self, inputs: MetricInputs) -> dict[str, MetricResult]:
        """The numbers by name."""


class SampleQualityMetric(Metric):
    """Numbers that compare the features of samples with those of real examples."""

    needs_features: bool = False
    """Whether it needs the features of every example, and not only their moments."""
    needs_logits: bool = False
    """Whether it needs class scores."""
    min_samples: int = 2
    """Fewest samples that it can be computed from."""

    @abstractmethod
    def __call__(self, real: FeatureSet, fake: FeatureSet) -> dict[str, float]:
        """Named numbers.

        Raises:
            ConfigurationError: If there are too few examples for its settings.
        """

    def prepare(self, inputs: MetricInputs) -> None:
        """Have the samples drawn with the features that the metric needs."""
        inputs.require_samples(self)

    def evaluate(self, inputs: MetricInputs) -> dict[str, MetricResult]:
        """The numbers, with means and standard errors over the seeds."""
        each = inputs.sample_numbers(self)
        return {name: MetricResult.over_seeds([numbers[name] for numbers in each]) for name in each[0]}


class LikelihoodMetric(Metric):
    """A number for each real example: how likely it is under a model."""

    @abstractmethod
    def __call__(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        num_bins: int | None,
        *,
        generator: Generators = None,
        dequantizer: Dequantizer | None = None,
        **cond: Any,
    ) -> dict[str, Tensor]:
        """Names and numbers of shape (B,).

        Args:
            denoiser: The model.
            x0: Clean data as the model sees them, shape (B, ...).
            num_bins: Grey levels of the data; None if they are not quantised.
            generator: Where the noise comes from; a `PhiloxGenerator` makes example i reproducible.
            dequantizer: Learned noise within a grey level, instead of uniform.
            **cond: Conditions for the network.
        """

    def prepare(self, inputs: MetricInputs) -> None:
        """Have the validation examples ready."""
        inputs.require_examples(self)

    def evaluate(self, inputs: MetricInputs) -> dict[str, MetricResult]:
        """The means over the validation examples, with standard errors over these."""
        each = inputs.example_values(self)
        return {
            name: MetricResult.over_examples(torch.stack([values[name] for values in each]))
            for name in each[0]
        }


def numbers_of(
    metrics: Sequence[SampleQualityMetric], real: FeatureSet, fake: FeatureSet
) -> dict[str, float]:
    """The numbers of all metrics by name.

    Raises:
        ConfigurationError: If there are too few examples, or two metrics of one name.
        SolverError: If a number is NaN or infinite.
    """
    numbers: dict[str, float] = {}
    for metric in metrics:
        new = metric(real, fake)
        check_distinct(numbers, new)
        check_numbers(metric, new)
        numbers |= new
    return numbers


def check_distinct(known: Mapping[str, object], new: Mapping[str, object]) -> None:
    """Refuse a number that is computed twice.

    Raises:
        ConfigurationError: If there is one.
    """
    if twice := known.keys() & new.keys():
        raise ConfigurationError(f"metrics: {min(twice)} is computed twice; remove one of them")


def check_numbers(metric: Metric, numbers: Mapping[str, float]) -> None:
    """Refuse a result that is not a number.

    Raises:
        SolverError: If one is NaN or infinite.
    """
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise SolverError(
                f"{type(metric).__name__}: {name} is {value}; give it more examples, or leave the metric out"
            )
