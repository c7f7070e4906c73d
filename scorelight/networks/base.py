"""The base of networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from scorelight.errors import ConfigurationError
from scorelight.storage.component import Component

__all__ = ["ScoreNetwork"]


class ScoreNetwork(Component, nn.Module, ABC):
    """A network of a noisy example and its noise level.

    Args:
        shape: Shape of one example, (D,) or (C, H, W); the command line fills it in from the data.
        num_classes: Number of classes to condition on, if any.
    """

    def __init__(self, shape: Sequence[int], num_classes: int | None = None) -> None:
        super().__init__()
        if num_classes is not None and num_classes < 1:
            raise ConfigurationError(
                f"{type(self).__name__}: num_classes={num_classes}: at least 1; leave it out for none"
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
            label: Class of each example, shape (B,); ignored without `num_classes`.
        """

    def drop_condition(self, cond: Mapping[str, Tensor], drop: Tensor) -> dict[str, Tensor]:
        """The conditions, replaced by "none" for the examples with `drop`, shape (B,).

        For a ``label``, "none" is the extra class `num_classes`; for any other condition it is zero.
        """

        def dropped(name: str, value: Tensor) -> Tensor:
            mask = drop.to(value.device).reshape(-1, *(1,) * (value.ndim - 1))
            none = self.num_classes if name == "label" and self.num_classes else 0
            return torch.where(mask, torch.full_like(value, none), value)

        return {name: dropped(name, value) for name, value in cond.items()}
