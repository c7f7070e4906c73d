"""The base of networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from scorelight.errors import ConfigurationError
from scorelight.processes.base import Scalar
from scorelight.storage.component import Component

__all__ = ["Encoder", "NumClasses", "ScoreNetwork", "per_example"]

_MOST_CLASSES = 1_000_000

NumClasses = int | Literal["data"] | None
"""Number of classes; on the command line also ``data``, which stands for those of the data."""


class ScoreNetwork(Component, nn.Module, ABC):
    """A network of a noisy example and its noise level.

    Args:
        shape: Shape of one example, (D,) or (C, H, W); the command line fills it in from the data.
        num_classes: Number of classes to condition on, if any; ``data`` on the command line: as many as the
            data have.
    """

    def __init__(self, shape: Sequence[int], num_classes: NumClasses = None) -> None:
        super().__init__()
        if num_classes == "data":
            raise ConfigurationError(
                f"{type(self).__name__}: num_classes='data' is known on the command line alone; give their "
                "number, such as DATA.num_classes"
            )
        if num_classes is not None and not 1 <= num_classes <= _MOST_CLASSES:
            raise ConfigurationError(
                f"{type(self).__name__}: num_classes={num_classes}: at least 1 and at most "
                f"{_MOST_CLASSES:,}; leave it out for none"
            )
        self.shape = tuple(shape)
        self.num_classes = num_classes

    learned_variance: bool = False
    """Whether the output is twice as large as x: its second half is then the variance of the reverse step."""

    @abstractmethod
    def forward(self, x: Tensor, noise_label: Tensor, label: Tensor | None = None) -> Tensor:
        """Output like x, or twice as large along dimension 1 (`Prediction.variance_fraction`).

        Args:
            x: Scaled noisy data, shape (B, *shape).
            noise_label: Label of each example's noise level, shape (B,); log(σ/α) unless the
                parameterization defines another one.
            label: Class of each example, shape (B,), `num_classes` for none; ignored without `num_classes`.
                `NetworkDenoiser` has checked it.
        """


class Encoder(Component, nn.Module, ABC):
    """A network that turns a noisy example and its noise level into features.

    Args:
        shape: Shape of one example, (D,) or (C, H, W); the command line fills it in from the data.
        num_features: Size of the output.
    """

    def __init__(self, shape: Sequence[int], num_features: int) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.num_features = num_features

    @abstractmethod
    def forward(self, x: Tensor, noise_label: Tensor) -> Tensor:
        """Features, shape (B, num_features).

        Args:
            x: Noisy data with a variance of about 1, shape (B, *shape).
            noise_label: log(σ/α) of each example, shape (B,).
        """


def per_example(value: Scalar, x: Tensor) -> Tensor:
    """A number of a noise level for each example of x, shape (B,)."""
    if isinstance(value, Tensor):
        return value.reshape(-1).expand(len(x))
    return torch.full((len(x),), value, dtype=x.dtype, device=x.device)
