"""What is known about clean data: the likelihoods of posteriors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from scorelight.classifiers.base import Classifier
from scorelight.errors import ConfigurationError
from scorelight.storage.component import Component

__all__ = ["ClassLikelihood", "Likelihood"]


class Likelihood(Component, nn.Module, ABC):
    """p(y | x0) of an observation y, up to a factor that does not depend on x0."""

    @abstractmethod
    def log_prob(self, x0: Tensor, **cond: Any) -> Tensor:
        """Log p(y | x0), shape (B,), of clean data of shape (B, ...) and the conditions of the samples."""


class ClassLikelihood(Likelihood):
    """p(c | x0) by a classifier of noisy examples, at the lowest noise level that it knows.

    Args:
        classifier: The classifier.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier.requires_grad_(False).eval()

    def log_prob(self, x0: Tensor, **cond: Any) -> Tensor:
        """Log p(c | x_t = α x0) at t_min, of the condition ``label``."""
        if cond.get("label") is None:
            raise ConfigurationError(
                "ClassLikelihood: which class? Give --labels, or a label for each example"
            )
        clean, _ = self.classifier.process.end_levels()
        return self.classifier.log_prob_of(clean.alpha * x0, clean, cond["label"])
