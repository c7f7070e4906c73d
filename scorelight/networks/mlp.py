"""A residual network for vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from typing_extensions import override

from scorelight.networks.base import NumClasses, ScoreNetwork
from scorelight.networks.embeddings import ConditionEmbedding

__all__ = ["MLP", "ResidualLayer"]


class MLP(ScoreNetwork):
    """Residual layers x + W₂ silu(W₁ silu(x) + noise level + class); for data of any shape, flattened.

    Args:
        shape: Shape of one example.
        width: Hidden units.
        depth: Residual layers.
        num_classes: Number of classes to condition on, if any; ``data`` on the command line: as many as the
            data have.
        learned_variance: Whether to output the variance of the reverse step too, as a second half.
    """

    def __init__(
        self,
        shape: Sequence[int],
        width: int = 128,
        depth: int = 3,
        num_classes: NumClasses = None,
        learned_variance: bool = False,
    ) -> None:
        super().__init__(shape, num_classes)
        self.learned_variance = learned_variance
        size = math.prod(shape)
        self.embed = ConditionEmbedding(width, self.num_classes)
        self.first = nn.Linear(size, width)
        self.layers = nn.ModuleList(ResidualLayer(width) for _ in range(depth))
        self.last = nn.Linear(width, size * (1 + learned_variance))
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    @override
    def forward(self, x: Tensor, noise_label: Tensor, label: Tensor | None = None) -> Tensor:
        condition = self.embed(noise_label, label)
        hidden = self.first(x.flatten(1))
        for layer in self.layers:
            hidden = layer(hidden, condition)
        output: Tensor = self.last(nn.functional.silu(hidden))
        return output.reshape(len(x), -1, *x.shape[2:])


class ResidualLayer(nn.Module):
    """x + W₂ silu(W₁ silu(x) + W₃ condition).

    Args:
        width: Size of x and of the condition.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.condition = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Like x, shape (B, width)."""
        hidden = self.inner(nn.functional.silu(x)) + self.condition(condition)
        residual: Tensor = self.outer(nn.functional.silu(hidden))
        return x + residual
