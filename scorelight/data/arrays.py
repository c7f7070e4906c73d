"""Sets of examples, in memory or read as they are needed: what loaders take batches from."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self, TypeVar

import torch
from torch import Tensor

from scorelight.batch import Batch
from scorelight.errors import ConfigurationError
from scorelight.rng import hash_seed

__all__ = ["Arrays", "Examples", "split"]

E = TypeVar("E", bound="Examples")


class Examples(ABC):
    """N examples in a fixed order, with the conditions that belong to them."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of examples."""

    @property
    def labels(self) -> Tensor | None:
        """Labels of all examples, shape (N,), where they are known without reading the examples."""
        return None

    @abstractmethod
    def batch(self, index: Tensor) -> Batch:
        """The examples at the given positions, as stored, in memory of their own."""

    @abstractmethod
    def select(self, index: Tensor) -> Self:
        """The set of the examples at the given positions alone."""

    @abstractmethod
    def all(self) -> Batch:
        """All examples, as stored.

        Raises:
            ConfigurationError: If they are not in memory.
        """

    @abstractmethod
    def digest(self) -> str:
        """16 hexadecimal digits that change with the examples."""

    def batches(self, indices: Iterable[Tensor]) -> Iterator[Batch]:
        """The batches at the given positions in turn; a set that reads its examples may read ahead."""
        return map(self.batch, indices)


@dataclass(frozen=True, slots=True, eq=False)
class Arrays(Examples):
    """Examples in memory, shape (N, ...), in their stored type."""

    x: Tensor
    cond: dict[str, Tensor]

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.x)

    @property
    def labels(self) -> Tensor | None:
        """Labels of all examples, shape (N,), if they have any."""
        return self.cond.get("label")

    def batch(self, index: Tensor) -> Batch:
        """The examples at the given positions, copied."""
        return Batch(*self._at(index), index)

    def select(self, index: Tensor) -> Self:
        """The set of the examples at the given positions alone."""
        return type(self)(*self._at(index))

    def _at(self, index: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.x.index_select(0, index), {k: v.index_select(0, index) for k, v in self.cond.items()}

    def all(self) -> Batch:
        """All examples, not copied."""
        return Batch(self.x, self.cond)

    def digest(self) -> str:
        """SHA-256 of types, shapes and contents."""
        digest = hashlib.sha256()
        for name, array in [("x", self.x), *sorted(self.cond.items())]:
            digest.update(f"{name} {array.dtype} {tuple(array.shape)} ".encode())
            digest.update(array.contiguous().numpy().data)
        return digest.hexdigest()[:16]


def split(examples: E, val_fraction: float, seed: int) -> tuple[E, E]:
    """Training and validation set, disjoint, drawn by the seed alone."""
    if not 0 < val_fraction < 1:
        raise ConfigurationError(f"data.val_fraction={val_fraction}: 0 < val_fraction < 1 is needed")
    size = len(examples)
    if size < 2:
        raise ConfigurationError(f"data: {size} example(s); at least 2 are needed, one of them to validate")
    order = torch.randperm(size, generator=torch.Generator().manual_seed(hash_seed(seed)))
    first = min(max(round(size * val_fraction), 1), size - 1)
    return examples.select(order[first:]), examples.select(order[:first])
