"""What travels from the data to the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scorelight.errors import ConfigurationError

__all__ = ["Batch", "Seeds", "as_batch", "gather", "indexed", "training_set"]


class Batch(NamedTuple):
    """Clean examples and what is known of them."""

    x0: Tensor
    """Shape (B, ...), images in [-1, 1]."""
    cond: dict[str, Tensor]
    """Conditions, each of shape (B, ...), such as ``label``."""
    indices: Tensor | None = None
    """Position of each example in its data set: seeds the fixed noise of validation."""


class Seeds(NamedTuple):
    """Which samples to draw: sample i is a function of (seed, i) alone."""

    indices: Tensor
    seed: int
    cond: dict[str, Tensor]


def as_batch(batch: Any) -> Batch:
    """Accept what ordinary data loaders give: a tensor, (x0, label), (x0, conditions) or a `Batch`."""
    if isinstance(batch, Tensor):
        return Batch(batch, {})
    x0, *rest = batch
    cond = rest[0] if rest else {}
    return Batch(x0, dict(cond) if isinstance(cond, Mapping) else {"label": cond}, *rest[1:2])


def indexed(batch: Any, batch_idx: int) -> Batch:
    """`as_batch` with the indices of its examples; of a loader that does not tell, as good as it gets."""
    x0, cond, indices = as_batch(batch)
    return Batch(x0, cond, torch.arange(len(x0)) + batch_idx * len(x0) if indices is None else indices)


def training_set(data: Any) -> Batch:
    """All training examples of a set-up data module, as the model sees them.

    That is its own `training_set()` if it has one, else what a pass of its `train_dataloader()` gives.
    """
    if hasattr(data, "training_set"):
        return data.training_set()
    return gather(data, "train_dataloader")


def gather(data: Any, dataloader: str, num: int | None = None) -> Batch:
    """All examples, or the first `num`, that a set-up data module's loader gives, as the model sees them.

    Raises:
        ConfigurationError: If there is none.
    """
    found: list[Batch] = []
    for batch in getattr(data, dataloader)():
        found.append(as_batch(data.on_after_batch_transfer(data.on_before_batch_transfer(batch, 0), 0)))
        if num and sum(len(b.x0) for b in found) >= num:
            break
    if not found:
        raise ConfigurationError(f"{type(data).__name__}: {dataloader}() gives no batch")
    cond = {name: torch.cat([b.cond[name] for b in found])[:num] for name in found[0].cond}
    return Batch(torch.cat([b.x0 for b in found])[:num], cond)
