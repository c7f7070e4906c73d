"""The likelihood of a class, for samples of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from scorelight.classifiers.base import Classifier
from scorelight.errors import ConfigurationError
from scorelight.posterior.likelihood import Likelihood
from scorelight.storage.runs import find_checkpoint
from scorelight.training.loading import load_classifier

__all__ = ["ClassLikelihood"]


class ClassLikelihood(Likelihood):
    """p(c | x0) by a classifier of noisy examples, at the lowest noise level that it knows.

    Args:
        classifier: The classifier; or the run folder or checkpoint of one, see `ClassifierModule`.
    """

    def __init__(self, classifier: str | Path | Classifier) -> None:
        super().__init__()
        if not isinstance(classifier, Classifier):
            classifier = load_classifier(find_checkpoint(classifier))
        self.classifier = classifier.requires_grad_(False).eval()
        self.num_classes = classifier.num_classes

    def log_prob(self, x0: Tensor, **cond: Any) -> Tensor:
        """Log p(c | x_t = α x0) at t_min, of the condition ``label``."""
        if cond.get("label") is None:
            raise ConfigurationError(
                "ClassLikelihood: which class? Give --labels, or a label for each example"
            )
        clean, _ = self.classifier.process.end_levels()
        return self.classifier.log_prob_of(clean.alpha * x0, clean, cond["label"])
