"""Loaders without padding, duplicates or hidden state.

`TrainLoader` lays the shuffled epochs end to end and cuts them into global batches: batch k of rank
r is a function of (seed, k, r), the same examples make up global batch k for any number of ranks,
nothing is dropped, and the position in the stream is all that a checkpoint needs. `EvalLoader` gives
rank r of W the examples r, r + W, ...: every one once. Neither is a `torch` DataLoader, so Lightning
does not put a padding DistributedSampler into it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from scorelight.batch import Batch
from scorelight.data.arrays import Examples
from scorelight.rng import hash_seed

__all__ = ["EvalLoader", "TrainLoader", "global_seed", "shard", "shares"]


def global_seed() -> int:
    """The seed that Lightning's `seed_everything` was called with, 0 without it."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def shard(data: LightningDataModule) -> tuple[int, int]:
    """(rank, number of processes) of a data module; (0, 1) without a trainer."""
    return (data.trainer.global_rank, data.trainer.world_size) if data.trainer else (0, 1)


def shares(indices: Tensor, batch_size: int, rank: int, world_size: int) -> Sequence[Tensor]:
    """Every W-th of the indices from the r-th on, in batches: no padding, and none without an index."""
    mine = indices[rank::world_size]
    return torch.split(mine, batch_size) if len(mine) else ()


def mirror(batch: Batch, flips: Tensor) -> Batch:
    """Mirror the images left to right, in place, where `flips` is 1."""
    flipped = flips.nonzero()[:, 0]
    batch.x0.index_copy_(0, flipped, batch.x0.index_select(0, flipped).flip(-1))
    return batch


class TrainLoader:
    """Endlessly shuffled batches, one epoch of ⌊N / global batch⌋ of them per pass.

    Args:
        examples: The training set.
        batch_size: Examples per batch and rank.
        seed: Seed of the shuffling.
        rank: This process.
        world_size: Number of processes.
        flip: Mirror half of the images left to right; which ones is a function of (seed, epoch, example).
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        flip: bool = False,
    ) -> None:
        self.examples = examples
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.flip = flip
        self.position = 0
        self._epoch = lru_cache(maxsize=2)(self._drawn)

    def __len__(self) -> int:
        """Batches per pass."""
        return max(len(self.examples) // (self.batch_size * self.world_size), 1)

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the present pass, from the batch after the last one given."""
        left = len(self) - self.position % len(self)
        turns = range(self.position, self.position + left)
        for batch in self.examples.batches(self._piece(k)[0] for k in turns):
            _, *flips = self._piece(self.position)
            self.position += 1
            yield mirror(batch, flips[0]) if flips else batch

    def _piece(self, k: int) -> Tensor:
        """Examples of batch k of this rank, and the flips of each: a piece of the epochs laid end to end."""
        size, stride = len(self.examples), self.world_size
        first = k * self.batch_size * stride + self.rank
        last = first + self.batch_size * stride
        epochs = range(first // size, (last - stride) // size + 1)
        starts = (max(first - e * size, (first - e * size) % stride) for e in epochs)
        parts = [
            self._epoch(e)[:, start : last - e * size : stride]
            for e, start in zip(epochs, starts, strict=True)
        ]
        return torch.cat(parts, 1)

    def _drawn(self, epoch: int) -> Tensor:
        """Order of an epoch, shape (1, N), or with the flips in that order, (2, N)."""
        generator = torch.Generator().manual_seed(hash_seed(self.seed, epoch))
        order = torch.randperm(len(self.examples), generator=generator)
        if not self.flip:
            return order[None]
        flips = torch.randint(2, order.shape, generator=generator)
        return torch.stack([order, flips[order]])

    def state_dict(self) -> dict[str, int]:
        """Examples given so far, by all ranks; Lightning stores it in the checkpoint."""
        return {"examples": self.position * self.batch_size * self.world_size}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Resume the stored stream, at the nearest batch if the batch size has changed."""
        self.position = state_dict["examples"] // (self.batch_size * self.world_size)


class EvalLoader:
    """Rank r's share r, r + W, ... of a data set, in order, without padding.

    Args:
        examples: The data set.
        batch_size: Examples per batch and rank.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(self, examples: Examples, batch_size: int, rank: int, world_size: int) -> None:
        self.examples = examples
        self.indices = shares(torch.arange(len(examples)), batch_size, rank, world_size)

    def __len__(self) -> int:
        """Batches of this rank."""
        return len(self.indices)

    def __iter__(self) -> Iterator[Batch]:
        """The batches in order."""
        return self.examples.batches(self.indices)
