"""What is known about clean data: the likelihoods of posteriors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from scorelight.storage.component import Component

__all__ = ["Likelihood"]


class Likelihood(Component, nn.Module, ABC):
    """p(y | x0) of an observation y, up to a factor that does not depend on x0."""

    num_classes: int | None = None
    """Number of classes, where y is the condition ``label``."""

    @abstractmethod
    def log_prob(self, x0: Tensor, **cond: Any) -> Tensor:
        """Log p(y | x0), shape (B,), of clean data of shape (B, ...) and the conditions of the samples."""
