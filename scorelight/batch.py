"""Records that pass from the data to the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scorelight.errors import ConfigurationError

__all__ = ["Batch", "IndexedBatch", "Seeds", "as_batch", "select_conditions", "with_indices"]


class Batch(NamedTuple):
    """Clean examples with their conditions."""

    x0: Tensor
    """Shape (B, ...), images in [-1, 1]."""
    cond: dict[str, Tensor]
    """Conditions, each of shape (B, ...), such as ``label``."""
    indices: Tensor | None = None
    """Position of each example in its data set, which seeds its fixed noise in validation."""


class IndexedBatch(NamedTuple):
    """Clean examples whose positions in their data set are known."""

    x0: Tensor
    """Shape (B, ...), images in [-1, 1]."""
    cond: dict[str, Tensor]
    """Conditions, each of shape (B, ...), such as ``label``."""
    indices: Tensor
    """Position of each example in its data set."""


class Seeds(NamedTuple):
    """Which samples to draw: sample i is a function of (seed, i) alone."""

    indices: Tensor
    seed: int
    cond: dict[str, Tensor]


def as_batch(batch: Any) -> Batch:
    """A `Batch` of what data loaders return: a tensor, (x0, label), (x0, conditions) or a `Batch`.

    Raises:
        ConfigurationError: If it is none of these.
    """
    x0, *rest = batch if isinstance(batch, tuple | list) and batch else (batch,)
    if not isinstance(x0, Tensor):
        raise ConfigurationError(
            f"a batch of the data starts with a {type(x0).__name__}; return a tensor x0, alone or as "
            "(x0, label) or (x0, {NAME: CONDITION})"
        )
    cond = rest[0] if rest else {}
    return Batch(x0, dict(cond) if isinstance(cond, Mapping) else {"label": cond}, *rest[1:2])


def with_indices(batch: Any, batch_idx: int) -> IndexedBatch:
    """`as_batch` with the indices of its examples; without those of a loader, counted from `batch_idx`."""
    x0, cond, indices = as_batch(batch)
    if indices is None:
        indices = torch.arange(len(x0)) + batch_idx * len(x0)
    return IndexedBatch(x0, cond, indices)


def select_conditions(cond: Mapping[str, Any], index: Tensor, size: int) -> dict[str, Any]:
    """The conditions of some of `size` examples: rows of each tensor that has a row for every example."""

    def rows(value: Any) -> Any:
        per_example = isinstance(value, Tensor) and value.ndim > 0 and len(value) == size
        return value[index] if per_example else value

    return {name: rows(value) for name, value in cond.items()}
