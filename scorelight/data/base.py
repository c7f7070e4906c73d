"""Data in memory, in batches that know no padding, no duplicates and no hidden state.

`TrainLoader` lays the shuffled epochs end to end and cuts them into global batches: batch k of rank
r is a function of (seed, k, r), the same examples make up global batch k for any number of ranks,
nothing is dropped, and the position in the stream is all that a checkpoint needs. `EvalLoader` gives
rank r of W the examples r, r + W, ...: every one once. Neither is a `torch` DataLoader, so Lightning
does not put a padding DistributedSampler into it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from scorelight.batch import Batch
from scorelight.component import Component
from scorelight.errors import ConfigurationError
from scorelight.seeding import global_seed, mix

__all__ = ["ArrayDataModule", "Arrays", "EvalLoader", "TrainLoader"]


class Arrays(NamedTuple):
    """Examples, shape (N, ...), in their stored type, and the conditions that belong to them."""

    x: Tensor
    cond: dict[str, Tensor]

    def batch(self, index: Tensor) -> Batch:
        """The examples at the given positions."""
        return Batch(self.x[index], {k: v[index] for k, v in self.cond.items()}, index)


def shard(data: LightningDataModule) -> tuple[int, int]:
    """(rank, number of processes) of a data module; (0, 1) without a trainer."""
    return (data.trainer.global_rank, data.trainer.world_size) if data.trainer else (0, 1)


def shares(num: int, batch_size: int, rank: int, world_size: int) -> Sequence[Tensor]:
    """The indices r, r + W, ... below `num`, in batches: no padding, and no batch where there is no index."""
    mine = torch.arange(rank, num, world_size)
    return torch.split(mine, batch_size) if len(mine) else ()


class TrainLoader:
    """Endlessly shuffled batches, one epoch of ⌊N / global batch⌋ of them per pass.

    Args:
        arrays: The training set.
        batch_size: Examples per batch and rank.
        seed: Seed of the shuffling.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(self, arrays: Arrays, batch_size: int, seed: int, rank: int, world_size: int) -> None:
        self.arrays = arrays
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.position = 0
        self._permutation = lru_cache(maxsize=2)(self._shuffled)

    def __len__(self) -> int:
        """Batches per pass."""
        return max(len(self.arrays.x) // (self.batch_size * self.world_size), 1)

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the present pass, from the batch after the last one given."""
        for _ in range(len(self) - self.position % len(self)):
            self.position += 1
            yield self.arrays.batch(self._indices(self.position - 1))

    def _indices(self, k: int) -> Tensor:
        """Examples of batch k of this rank: a piece of the epochs laid end to end."""
        size = len(self.arrays.x)
        first = (k * self.world_size + self.rank) * self.batch_size
        stream = range(first, first + self.batch_size)
        return torch.tensor([self._permutation(i // size)[i % size] for i in stream])

    def _shuffled(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(mix(self.seed, epoch))
        order: list[int] = torch.randperm(len(self.arrays.x), generator=generator).tolist()
        return order

    def state_dict(self) -> dict[str, int]:
        """Examples given so far, by all ranks; Lightning stores it in the checkpoint."""
        return {"examples": self.position * self.batch_size * self.world_size}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on where the stored stream was, to the nearest batch if their size has changed."""
        self.position = state_dict["examples"] // (self.batch_size * self.world_size)


class EvalLoader:
    """Rank r's share r, r + W, ... of a data set, in order, without padding.

    Args:
        arrays: The data set.
        batch_size: Examples per batch and rank.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(self, arrays: Arrays, batch_size: int, rank: int, world_size: int) -> None:
        self.arrays = arrays
        self.batches = shares(len(arrays.x), batch_size, rank, world_size)

    def __len__(self) -> int:
        """Batches of this rank."""
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        """The batches in order."""
        return map(self.arrays.batch, self.batches)


class ArrayDataModule(Component, LightningDataModule, ABC):
    """A data set that fits in memory. A subclass says its `shape` and makes its `arrays`.

    Args:
        batch_size: Training examples per step and process.
        val_batch_size: Validation examples per step and process.
        seed: Seed of the split; the order of training is that of `seed_everything` as well.
    """

    shape: tuple[int, ...]
    """Shape of one example; the network gets it from here."""
    num_levels: int | None = None
    """Number of grey levels, equally spaced from −1 to 1 as the model sees them; None if not quantised."""

    def __init__(self, batch_size: int = 64, val_batch_size: int = 256, seed: int = 0) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("val_batch_size", val_batch_size)):
            if value < 1:
                raise ConfigurationError(f"data.{name}={value}: must be at least 1")
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size
        self.seed = seed

    @abstractmethod
    def arrays(self) -> tuple[Arrays, Arrays]:
        """The training and the validation set."""

    def scale(self, x: Tensor) -> Tensor:
        """From stored values to what the model sees; called on the device."""
        return x

    def setup(self, stage: str) -> None:
        """Load once."""
        if not hasattr(self, "train"):
            self.train, self.val = self.arrays()

    def train_dataloader(self) -> TrainLoader:
        """The endless stream of training batches."""
        return TrainLoader(self.train, self.batch_size, mix(self.seed, global_seed()), *shard(self))

    def val_dataloader(self) -> EvalLoader:
        """Every validation example once."""
        return EvalLoader(self.val, self.val_batch_size, *shard(self))

    def training_set(self) -> Batch:
        """All training examples, scaled."""
        return Batch(self.scale(self.train.x), self.train.cond)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Scale on the device."""
        return batch._replace(x0=self.scale(batch.x0))


def split(arrays: Arrays, val_fraction: float, seed: int) -> tuple[Arrays, Arrays]:
    """Training and validation set, disjoint, drawn by the seed alone."""
    if not 0 < val_fraction < 1:
        raise ConfigurationError(f"data.val_fraction={val_fraction}: 0 < val_fraction < 1 is needed")
    size = len(arrays.x)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(mix(seed)))
    first = max(round(size * val_fraction), 1)
    val, train = arrays.batch(order[:first]), arrays.batch(order[first:])
    return Arrays(train.x0, train.cond), Arrays(val.x0, val.cond)
