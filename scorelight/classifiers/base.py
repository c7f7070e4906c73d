"""Classifiers of noisy examples: p(c | x_t)."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from scorelight.conditions import class_rows
from scorelight.denoisers.analytic import GaussianMixture
from scorelight.processes.base import AnyLevel, ForwardProcess
from scorelight.storage.component import Component

__all__ = ["BayesClassifier", "Classifier"]


class Classifier(Component, nn.Module, ABC):
    """Knows the class of a noisy example with a probability, for its `process`."""

    process: ForwardProcess
    num_classes: int

    @abstractmethod
    def log_prob(self, x_t: Tensor, level: AnyLevel) -> Tensor:
        """Log p(c | x_t) of all classes, shape (B, C), at a level of floats or of broadcastable tensors."""

    def log_prob_of(self, x_t: Tensor, level: AnyLevel, label: Tensor) -> Tensor:
        """Log p(c | x_t) of one class for each example, shape (B,); 0 for `NO_CLASS`.

        Raises:
            ConfigurationError: If a label is no class.
        """
        rows = class_rows(label, self.num_classes, x_t)
        log_prob = self.log_prob(x_t, level)
        chosen = log_prob.gather(1, rows.clamp(max=self.num_classes - 1)[:, None])[:, 0]
        return chosen.where(rows < self.num_classes, 0)


class BayesClassifier(Classifier):
    """The exact classifier of a mixture whose components have classes, as a perfect network would be.

    Args:
        density: The distribution of the data.
        process: The forward process.
    """

    def __init__(self, density: GaussianMixture, process: ForwardProcess) -> None:
        super().__init__()
        self.density = density
        self.process = process
        self.num_classes = density.num_classes

    def log_prob(self, x_t: Tensor, level: AnyLevel) -> Tensor:
        """The logarithm of the share that the class has of the density of x_t."""
        return self.density.log_class_prob(x_t, level.alpha, level.sigma).to(x_t.dtype)
