"""The features of real examples: computed once, and kept by the content of the data and of the features."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from tqdm import tqdm

from scorelight.data.access import ModelExamples, examples_of
from scorelight.data.base import Split
from scorelight.errors import ConfigurationError
from scorelight.evaluation.context import DistributedContext
from scorelight.evaluation.feature_rows import FeatureRows
from scorelight.evaluation.quality import feature_set
from scorelight.evaluation.samples import quantize
from scorelight.evaluation.stores import data_key, key_text
from scorelight.metrics import (
    DigitsFeatures,
    FeatureExtractor,
    FeatureSet,
    InceptionFeatures,
    MNISTFeatures,
    PixelFeatures,
    SampleQualityMetric,
)
from scorelight.storage.npz import read_npz, write_npz

__all__ = ["cache_dir", "default_features", "own_features", "reference_set"]


def default_features(shape: Sequence[int]) -> FeatureExtractor:
    """By the shape of the examples: our classifiers for grey 8×8 and 28×28, Inception for other images."""
    if len(shape) != 3:
        return PixelFeatures()
    return own_features(shape) or InceptionFeatures()


def own_features(shape: Sequence[int]) -> FeatureExtractor | None:
    """Our classifiers for grey images of 8×8 and 28×28, which need no download; None for other shapes."""
    known: dict[tuple[int, ...], Callable[[], FeatureExtractor]] = {
        (1, 8, 8): DigitsFeatures,
        (1, 28, 28): MNISTFeatures,
    }
    make = known.get(tuple(shape))
    return make() if make else None


def cache_dir() -> Path:
    """Where statistics of real data are kept: ``$SCORELIGHT_CACHE``, by default ``~/.cache/scorelight``."""
    return Path(os.environ.get("SCORELIGHT_CACHE", Path.home() / ".cache" / "scorelight"))


def reference_set(
    features: FeatureExtractor,
    data: LightningDataModule | None,
    split: Split,
    metrics: Sequence[SampleQualityMetric],
    context: DistributedContext,
    file: str | None = None,
) -> FeatureSet:
    """Features of all real examples of a split, or those that a file describes.

    They are computed once, and then read from a cache in `cache_dir` by the content of the data and their
    preprocessing, by class, code, options and weights of the features, and by the code of scorelight. The
    file states its complete key, which is compared. The features of each example are on the first process
    alone, which reads them from the file some at a time.

    Args:
        features: Feature network, on the device.
        data: Any data module, see `scorelight.data.access`; None only with a file.
        split: Training or validation set.
        metrics: What the features are needed for.
        context: The processes that share the work.
        file: An .npz with statistics of real examples, instead of those of the data.

    Raises:
        ConfigurationError: If there are no data, or the file has other features or lacks what a metric needs.
    """
    if file:
        return _imported(Path(file), features, metrics)
    if data is None:
        raise ConfigurationError(
            "real examples are needed to compare with: train with a data module, or give reference=FILE.npz"
        )
    examples = examples_of(data, split)
    key = key_text(data_key(data, examples), features.key, features.settings())
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    path = cache_dir() / "features" / f"{examples.fingerprint()}-{digest}.npz"
    real = _cached(path, key, metrics) if context.is_main else None
    moments = context.broadcast(lambda: real and real.moments_only())
    if moments is not None:
        return real or moments
    real = _compute(features, examples, metrics, context)
    if context.is_main:
        _keep(real, path, key)
    return real


def _cached(path: Path, key: str, metrics: Sequence[SampleQualityMetric]) -> FeatureSet | None:
    """The features in the cache; none if they do not suffice, are damaged, or are of another key."""
    if not path.exists():
        return None
    try:
        known = str(read_npz(path, ["cache_key"])["cache_key"]) == key
        found = FeatureSet.load(path, in_memory=False) if known else None
    except ConfigurationError as error:
        warnings.warn(f"{path} is damaged and will be computed again: {error}", stacklevel=2)
        return None
    return None if found is None or _needing_features(found, metrics) else found


def _keep(real: FeatureSet, path: Path, key: str) -> None:
    """Write to the cache, under the key; without a place for it nothing is kept."""
    try:
        write_npz(path, {**real.arrays(), "cache_key": np.str_(key)})
    except OSError as error:
        warnings.warn(f"{path}: statistics of real data cannot be kept there: {error}", stacklevel=2)


def _compute(
    features: FeatureExtractor,
    examples: ModelExamples,
    metrics: Sequence[SampleQualityMetric],
    context: DistributedContext,
) -> FeatureSet:
    rows = FeatureRows(features, metrics, len(examples), "real examples")
    shards = context.shard(torch.arange(len(examples)), 250)
    batches = examples.batches(shards, context.device)
    bar = tqdm(batches, "features of real data", len(shards), disable=not context.is_main)
    return feature_set(((batch.indices, quantize(batch.x0)) for batch in bar), rows, context)


def _imported(file: Path, features: FeatureExtractor, metrics: Sequence[SampleQualityMetric]) -> FeatureSet:
    real = FeatureSet.load(file, in_memory=False)
    if real.key and real.key != features.key:
        raise ConfigurationError(
            f"reference={file}: statistics of the features {real.key}, but {features.key} are asked for; "
            "name the same features, or make a new file with scorelight statistics"
        )
    if needing := _needing_features(real, metrics):
        raise ConfigurationError(
            f"reference={file}: {needing} needs the features of each example, and the file has mean and "
            "covariance alone; make it with scorelight statistics --keep_features true, or leave it out"
        )
    return real


def _needing_features(real: FeatureSet, metrics: Sequence[SampleQualityMetric]) -> str:
    """Names of the metrics that need the features of every example, if there are none."""
    needing = [type(m).__name__ for m in metrics if m.needs_features] if real.features is None else []
    return ", ".join(needing)
