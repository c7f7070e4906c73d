"""Judging a model: its samples against real examples, and its likelihoods, on any number of processes.

Sample i is a function of (seed, i), as are the noises of example i's likelihood. The processes share the
indices out, r, r + W, ... to rank r, without padding: what is found does not depend on how many there are.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric import Fabric
from lightning.pytorch import Trainer
from torch import Tensor
from tqdm import tqdm

from scorelight.batch import Batch
from scorelight.data.loaders import shares
from scorelight.denoisers.base import Denoiser
from scorelight.errors import ConfigurationError
from scorelight.images import to_uint8
from scorelight.likelihood.dequantization import Dequantizer
from scorelight.metrics import (
    FeatureExtractor,
    FeatureSet,
    InceptionFeatures,
    PixelFeatures,
    SampleQualityMetric,
)
from scorelight.metrics.base import numbers_of
from scorelight.metrics.features.digits import DigitsFeatures, MNISTFeatures
from scorelight.metrics.likelihood import LikelihoodMetric
from scorelight.metrics.quality import SampleQuality
from scorelight.rng import per_example_generators
from scorelight.samplers.base import Sampler
from scorelight.storage.shards import concat_by_index
from scorelight.training.module import ScoreModule

__all__ = [
    "DistributedContext",
    "all_gather_rows",
    "check_samples",
    "default_features",
    "draw",
    "first",
    "judge",
    "quality_of",
    "reference_set",
    "stored",
]


class DistributedContext(NamedTuple):
    """The processes that share the work, as a trainer or a Fabric knows them."""

    rank: int
    world_size: int
    device: torch.device
    link: Any
    """Has `barrier()` and `broadcast(object)` from rank 0."""

    @classmethod
    def from_trainer(cls, trainer: Trainer) -> DistributedContext:
        """Those of a trainer that runs."""
        strategy = trainer.strategy
        return cls(trainer.global_rank, trainer.world_size, strategy.root_device, strategy)

    @classmethod
    def from_fabric(cls, fabric: Fabric) -> DistributedContext:
        """Those of a Fabric that was launched."""
        return cls(fabric.global_rank, fabric.world_size, fabric.device, fabric)

    def share(self, indices: Tensor, batch_size: int) -> Sequence[Tensor]:
        """This process's part of the indices, in batches."""
        return shares(indices, batch_size, self.rank, self.world_size)

    def all_gather(self, mine: Any) -> list[Any]:
        """What each rank has, in the order of the ranks, on every rank."""
        if self.world_size == 1:
            return [mine]
        found: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(found, mine)
        return found

    def broadcast_from_rank_zero(self, make: Callable[[], Any]) -> Any:
        """What rank 0 makes, on every rank."""
        return self.link.broadcast(make() if self.rank == 0 else None)


def stored(x: Tensor) -> Tensor:
    """Samples as they are judged: images of [−1, 1] rounded to 8 bits, anything else as it is."""
    return to_uint8(x) if x.ndim == 4 else x.float()


def draw(
    module: ScoreModule, seed: int, batches: Iterable[Tensor], sampler: Sampler | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Samples at the given indices, batch by batch: (indices, samples as `stored`).

    A class-conditional model draws its classes in turn.
    """
    for index in batches:
        states = module.sample(seed, index.tolist(), module.cycle_labels(index), sampler)
        yield index, stored(deque(states, maxlen=1).pop())


def reference_set(
    features: FeatureExtractor,
    data: Any,
    split: str,
    metrics: Sequence[SampleQualityMetric],
    workers: DistributedContext,
    file: str | None = None,
) -> FeatureSet:
    """Features of all real examples of a split, or of those that a file describes.

    They are computed once, and then found again by the content of the data, their preprocessing and the
    weights of the features, in ``$SCORELIGHT_CACHE``, by default ``~/.cache/scorelight``.

    Raises:
        ConfigurationError: If the file is of other features, or lacks what a metric needs.
    """
    if file:
        return _imported(Path(file), features, metrics)
    if not hasattr(data, "fingerprint"):
        raise ConfigurationError(
            f"{type(data).__name__}: cannot tell all its examples; use one of scorelight's data modules, "
            "such as ImageDataModule, or a reference=FILE.npz with statistics of real examples"
        )
    path = cache_dir() / "features" / f"{data.fingerprint(split)}-{features.key.rpartition('.')[2]}.npz"

    def cached() -> FeatureSet | None:
        found = FeatureSet.load(path) if path.exists() else None
        return found if found and not _lacks(found, metrics) else None

    found: FeatureSet | None = workers.broadcast_from_rank_zero(cached)
    if found is None:
        found = _features_of(features, data, split, metrics, workers)
        if workers.rank == 0:
            found.save(path)
    return found


def _imported(file: Path, features: FeatureExtractor, metrics: Sequence[SampleQualityMetric]) -> FeatureSet:
    found = FeatureSet.load(file)
    if found.key and found.key != features.key:
        raise ConfigurationError(
            f"reference={file}: statistics of the features {found.key}, but {features.key} are asked for; "
            "name the same features, or make the file anew with scorelight statistics"
        )
    if lacking := _lacks(found, metrics):
        raise ConfigurationError(
            f"reference={file}: {lacking} needs the features of each example, and the file has mean and "
            "covariance alone; make it with scorelight statistics --keep_features true, or leave it out"
        )
    return found


def _lacks(found: FeatureSet, metrics: Sequence[SampleQualityMetric]) -> str:
    """Names of the metrics that need more than there is."""
    needy = [type(m).__name__ for m in metrics if m.needs_features] if found.features is None else []
    return ", ".join(needy)


def _features_of(
    features: FeatureExtractor,
    data: Any,
    split: str,
    metrics: Sequence[SampleQualityMetric],
    workers: DistributedContext,
) -> FeatureSet:
    quality = SampleQuality(features, metrics).to(workers.device)
    examples = data.examples(split)
    batches = workers.share(torch.arange(len(examples)), 250)
    bar = tqdm(examples.batches(batches), "features of real data", len(batches), disable=workers.rank > 0)
    for batch in bar:
        quality.update(stored(data.scale(batch.x0.to(workers.device))), batch.indices, real=True)
    return quality.feature_set(real=True)


def check_samples(
    metrics: Sequence[SampleQualityMetric], features: FeatureExtractor, shape: Sequence[int], num_samples: int
) -> None:
    """Raise, before the time that samples take, what would be raised after it.

    Raises:
        ConfigurationError: If the metrics cannot be had from so many samples of that shape by these features.
    """
    for metric in metrics:
        if num_samples < metric.least:
            raise ConfigurationError(
                f"{type(metric).__name__}: num_samples={num_samples}, but it needs {metric.least}: draw "
                "more, or set its own options lower"
            )
    device = next(features.parameters(), torch.empty(0)).device
    found = features(stored(torch.zeros(1, *shape, device=device)))
    if found.logits is None and (needy := [type(m).__name__ for m in metrics if m.needs_logits]):
        raise ConfigurationError(
            f"{needy[0]}: needs features that classify, such as InceptionFeatures or, for digits, "
            f"MNISTFeatures and DigitsFeatures; {type(features).__name__} do not"
        )


def default_features(shape: Sequence[int]) -> FeatureExtractor:
    """By the shape of the examples: our classifiers for grey 8×8 and 28×28, Inception for other images."""
    if len(shape) != 3:
        return PixelFeatures()
    known: dict[tuple[int, ...], type[FeatureExtractor]] = {
        (1, 8, 8): DigitsFeatures,
        (1, 28, 28): MNISTFeatures,
    }
    return known.get(tuple(shape), InceptionFeatures)()


def cache_dir() -> Path:
    """Where statistics of real data are kept."""
    return Path(os.environ.get("SCORELIGHT_CACHE", Path.home() / ".cache" / "scorelight"))


def quality_of(
    batches: Iterable[tuple[Tensor, Tensor]],
    features: FeatureExtractor,
    metrics: Sequence[SampleQualityMetric],
    real: FeatureSet,
    workers: DistributedContext,
) -> dict[str, float]:
    """Numbers of the metrics for (indices, samples) that the processes hold among them."""
    quality = SampleQuality(features, metrics).to(workers.device)
    for index, x in batches:
        quality.update(x.to(workers.device), index)
    fake = quality.feature_set()
    return workers.broadcast_from_rank_zero(lambda: numbers_of(metrics, real, fake))


def judge(
    metric: LikelihoodMetric,
    denoiser: Denoiser,
    batch: Batch,
    num_bins: int | None,
    seed: int,
    dequantizer: Dequantizer | None = None,
) -> dict[str, Tensor]:
    """Numbers of each example of a batch, and its index; its noises are functions of (seed, index)."""
    x0, cond, index = batch
    assert index is not None
    noise = per_example_generators(seed, index.tolist())
    found = metric(denoiser, x0, num_bins, generator=noise, dequantizer=dequantizer, **cond)
    return {"index": index.cpu(), **{name: value.double().cpu() for name, value in found.items()}}


def first(batch: Batch, num: int) -> Batch:
    """The examples of a batch whose index is below `num`."""
    assert batch.indices is not None
    keep = (batch.indices < num).nonzero()[:, 0]
    x0, cond = batch.x0[keep.to(batch.x0.device)], {k: v[keep.to(v.device)] for k, v in batch.cond.items()}
    return Batch(x0, cond, batch.indices[keep])


def all_gather_rows(mine: Sequence[dict[str, Tensor]], workers: DistributedContext) -> dict[str, Tensor]:
    """What `judge` found on all processes, one tensor a name, in the order of the examples."""
    whole = concat_by_index([part for of_rank in workers.all_gather(list(mine)) for part in of_rank])
    return {name: value for name, value in whole.items() if name != "index"}
