"""What is minimised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from torch import Tensor, nn

from scorelight.component import Component
from scorelight.denoiser import Denoiser
from scorelight.processes.base import NoiseLevel, Scalar
from scorelight.seeding import Generators

__all__ = ["Loss", "Objective", "Weighting"]


class Loss(NamedTuple):
    """Loss of each example and the time it was taken at, both of shape (B,)."""

    value: Tensor
    t: Tensor


class Objective(Component, nn.Module, ABC):
    """A training loss whose minimiser is the true score."""

    @abstractmethod
    def forward(self, denoiser: Denoiser, x0: Tensor, *, generator: Generators = None, **cond: Any) -> Loss:
        """Loss per example of clean data x0, shape (B, ...).

        Args:
            denoiser: What is trained; it carries the process.
            x0: Clean data.
            generator: Where t and the noise come from; one per example makes example i reproducible.
            **cond: Conditions for the network, e.g. ``label`` of shape (B,).
        """


class Weighting(Component, ABC):
    """Weight λ of a noise level in the objective."""

    @abstractmethod
    def __call__(self, level: NoiseLevel) -> Scalar:
        """λ at the level, of the level's shape."""
