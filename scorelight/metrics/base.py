"""What a metric is, and one of samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from scorelight.errors import ConfigurationError
from scorelight.metrics.statistics import FeatureSet
from scorelight.storage.component import Component

__all__ = ["Metric", "SampleQualityMetric", "numbers_of"]


class Metric(Component, ABC):
    """What a model is judged by: a `SampleQualityMetric` or an `LikelihoodMetric`."""

    @abstractmethod
    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Names and numbers."""


class SampleQualityMetric(Metric):
    """Numbers that compare the features of samples with those of real examples."""

    needs_features: bool = False
    """Whether it needs the features of every example, and not only their moments."""
    needs_logits: bool = False
    """Whether it needs class scores."""
    least: int = 2
    """Fewest samples that it can do with."""

    @abstractmethod
    def __call__(self, real: FeatureSet, fake: FeatureSet) -> dict[str, float]:
        """Named numbers.

        Raises:
            ConfigurationError: If there are too few examples for its settings.
        """


def numbers_of(
    metrics: Sequence[SampleQualityMetric], real: FeatureSet, fake: FeatureSet
) -> dict[str, float]:
    """The numbers of all metrics by name.

    Raises:
        ConfigurationError: If there are too few examples, or two metrics of one name.
    """
    numbers: dict[str, float] = {}
    for metric in metrics:
        found = metric(real, fake)
        if twice := numbers.keys() & found.keys():
            raise ConfigurationError(f"metrics: {min(twice)} is computed twice; remove one of them")
        numbers |= found
    return numbers
