"""The data set of sampling: which samples to draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from scorelight.batch import Seeds
from scorelight.data.base import DescribedDataModule
from scorelight.data.loaders import shard, shares
from scorelight.errors import ConfigurationError

__all__ = ["SeedDataModule"]


class SeedDataModule(DescribedDataModule):
    """Indices 0 to num_samples − 1, shared out without padding; sample i is a function of (seed, i).

    Args:
        num_samples: Number of samples.
        seed: Seed of them all.
        batch_size: Samples drawn at once by each process; does not change them.
        labels: Classes to draw, taken in turn, for a class-conditional model.
    """

    def __init__(
        self, num_samples: int = 64, seed: int = 0, batch_size: int = 64, labels: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        if num_samples < 1 or batch_size < 1:
            raise ConfigurationError(
                f"num_samples={num_samples}, batch_size={batch_size}: both must be at least 1"
            )
        self.num_samples = num_samples
        self.seed = seed
        self.batch_size = batch_size
        self.labels = list(labels) if labels else None

    def predict_dataloader(self) -> SeedLoader:
        """This process's share of the indices."""
        return SeedLoader(self, *shard(self))


class SeedLoader:
    """Batches of `Seeds`."""

    def __init__(self, data: SeedDataModule, rank: int, world_size: int) -> None:
        self.data = data
        self.batches = shares(torch.arange(data.num_samples), data.batch_size, rank, world_size)

    def __len__(self) -> int:
        """Batches of this process."""
        return len(self.batches)

    def __iter__(self) -> Iterator[Seeds]:
        """The batches in order."""
        for indices in self.batches:
            cond = {}
            if self.data.labels:
                cond["label"] = torch.tensor(self.data.labels)[indices % len(self.data.labels)]
            yield Seeds(indices, self.data.seed, cond)
