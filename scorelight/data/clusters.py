"""Clusters of the examples in the place of their labels: a condition for data that have none."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d
from typing_extensions import override

from scorelight.data.arrays import Arrays
from scorelight.data.base import ArrayDataModule
from scorelight.data.wrapped import WrappedDataModule
from scorelight.errors import ConfigurationError
from scorelight.rng import hash_seed

__all__ = ["ClusteredDataModule", "assign", "balanced_clusters"]

_ROUNDS, _PRICE_STEPS = 20, 5


class ClusteredDataModule(WrappedDataModule):
    """The examples of another data module, labelled by clusters of equal size instead of by its labels.

    A model of these data is p(x) = Σ_k p(x | k)/K for K clusters: samples of all clusters in turn, as they
    are drawn of a model with classes, are samples of the data, and no label was used. A small network learns
    each p(x | k) sooner than p(x) at once (Bao et al., 2022, "Why are conditional generative models better
    than unconditional ones?"; Hu et al., 2023, "Self-guided diffusion models"). Bits per dimension are those
    of x given its cluster: those of p(x) are higher by at most log₂(K)/D.

    Images are compared at half their resolution, by their values, see `balanced_clusters`.

    Args:
        data: The other data module, with its examples in memory; its labels are dropped.
        num_clusters: Number of clusters K, at least 2.
        batch_size: Training examples per step and process (default: as of `data`).
        val_batch_size: Validation examples per step and process (default: as of `data`).
        seed: Seed of the clusters.
    """

    def __init__(
        self,
        data: ArrayDataModule,
        num_clusters: int = 64,
        batch_size: int | None = None,
        val_batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(data, batch_size, val_batch_size)
        if num_clusters < 2:
            raise ConfigurationError(f"data.num_clusters={num_clusters}: must be at least 2")
        self.num_classes = num_clusters
        self.cluster_seed = seed

    @override
    def arrays(self) -> tuple[Arrays, Arrays]:
        train, val = self.arrays_in_memory()
        if self.num_classes > len(train):
            raise ConfigurationError(
                f"data.num_clusters={self.num_classes}: there are {len(train)} training examples; choose "
                "fewer clusters"
            )
        generator = torch.Generator().manual_seed(hash_seed(self.cluster_seed))
        means, prices = balanced_clusters(_points(train), self.num_classes, generator)

        def labelled(examples: Arrays, capacity: int) -> Arrays:
            return Arrays(examples.x, {"label": assign(_points(examples), means, prices, capacity)})

        return labelled(train, math.ceil(len(train) / self.num_classes)), labelled(val, len(val))


def balanced_clusters(x: Tensor, num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Means m_k and prices p_k of clusters of about equal size (Bradley, Bennett & Demiriz, 2000).

    Lloyd's algorithm with the assignment k(x) = argmin_k ‖x − m_k‖² + p_k. The prices are multipliers of the
    constraint on the sizes n_k, and ascend by s²/10 · log(n_k K/N), s² the mean squared distance of x from
    its mean.

    Args:
        x: Points, shape (N, D).
        num: Number of clusters K, at most N.
        generator: Draws the points that the means begin with.

    Returns:
        Means of shape (K, D), prices of shape (K,).
    """
    means = x[torch.randperm(len(x), generator=generator)[:num]]
    prices, step = x.new_zeros(num), 0.1 * (x - x.mean(0)).square().sum(1).mean()
    for _ in range(_ROUNDS):
        scores = _scores(x, means)
        for _ in range(_PRICE_STEPS):
            sizes = (scores + prices).argmin(1).bincount(minlength=num)
            prices = prices + step * (sizes * num / len(x)).clamp(min=0.2).log()
        chosen = (scores + prices).argmin(1)
        sums = torch.zeros_like(means).index_add_(0, chosen, x)
        sizes = chosen.bincount(minlength=num)[:, None]
        means = torch.where(sizes > 0, sums / sizes.clamp(min=1), means)
    return means, prices


def assign(x: Tensor, means: Tensor, prices: Tensor, capacity: int) -> Tensor:
    """A cluster for each point, shape (N,): the nearest one that has a place for it.

    A cluster keeps the `capacity` points that are nearest to it, and the others go to their next one, until
    no cluster has too many (deferred acceptance: Gale & Shapley, 1962).

    Args:
        x: Points, shape (N, D).
        means: Means m_k, shape (K, D).
        prices: Prices p_k, shape (K,), a part of the distance ‖x − m_k‖² + p_k.
        capacity: Points that a cluster may have, at least N/K.
    """
    scores = _scores(x, means) + prices
    while True:
        chosen = scores.argmin(1)
        full = (chosen.bincount(minlength=len(means)) > capacity).nonzero().flatten().tolist()
        if not full:
            return chosen
        for k in full:
            members = (chosen == k).nonzero().flatten()
            rejected = members[scores[members, k].argsort()[capacity:]]
            scores[rejected, k] = torch.inf


def _scores(x: Tensor, means: Tensor) -> Tensor:
    """‖x − m_k‖² − ‖x‖², shape (N, K)."""
    return torch.addmm(means.square().sum(1), x, means.T, alpha=-2)


def _points(examples: Arrays) -> Tensor:
    """The examples as vectors; images at half their resolution."""
    x = examples.x.float()
    x = x / 255 if examples.x.dtype == torch.uint8 else x
    return (avg_pool2d(x, 2, ceil_mode=True) if x.ndim == 4 else x).flatten(1)
