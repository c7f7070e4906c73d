"""Metrics of samples and of examples, for a batch and for all processes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from scorelight.batch import IndexedBatch, select_conditions
from scorelight.denoisers.base import Denoiser
from scorelight.errors import ConfigurationError, SolverError
from scorelight.evaluation.context import DistributedContext
from scorelight.evaluation.feature_rows import FeatureRows
from scorelight.evaluation.samples import quantize
from scorelight.likelihood.dequantization import Dequantizer
from scorelight.metrics import FeatureExtractor, FeatureSet, SampleQualityMetric
from scorelight.metrics.base import LikelihoodMetric
from scorelight.rng import PhiloxGenerator, Stream
from scorelight.storage.shards import concat_by_index

__all__ = ["all_gather_rows", "check_samples", "evaluate_examples", "feature_set", "head"]


def check_samples(
    metrics: Sequence[SampleQualityMetric], features: FeatureExtractor, shape: Sequence[int], num_samples: int
) -> None:
    """Raise before samples are drawn what would be raised after that.

    Raises:
        ConfigurationError: If a metric needs more samples, or features that classify, or these features do
            not take examples of that shape.
    """
    for metric in metrics:
        if num_samples < metric.min_samples:
            raise ConfigurationError(
                f"{type(metric).__name__}: num_samples={num_samples}, but it needs {metric.min_samples}: "
                "draw more, or set its own options lower"
            )
    device = next(features.parameters(), torch.empty(0)).device
    logits = features(quantize(torch.zeros(1, *shape, device=device))).logits
    if logits is None and (needing := [type(m).__name__ for m in metrics if m.needs_logits]):
        raise ConfigurationError(
            f"{needing[0]}: needs features that classify, such as InceptionFeatures or, for digits, "
            f"MNISTFeatures and DigitsFeatures; {type(features).__name__} do not"
        )


def feature_set(
    batches: Iterable[tuple[Tensor, Tensor]], rows: FeatureRows, context: DistributedContext
) -> FeatureSet:
    """The features of (indices, examples) that the processes hold among them; see `FeatureRows.gathered`.

    Raises:
        ConfigurationError, SamplingError: On all processes, if examples or features of one of them are NaN or
            infinite.
    """

    def add() -> None:
        for index, x in batches:
            rows.add(index, rows.extract(x.to(context.device)))

    context.agree(add)
    return rows.gathered(context)


def evaluate_examples(
    metric: LikelihoodMetric,
    denoiser: Denoiser,
    batch: IndexedBatch,
    num_bins: int | None,
    seed: int,
    dequantizer: Dequantizer | None = None,
) -> dict[str, Tensor]:
    """Values of each example of a batch, and its index; its noise is a function of (seed, index).

    Raises:
        SolverError: If a value is NaN or infinite; it names the examples.
    """
    x0, cond, index = batch
    generator = PhiloxGenerator(seed, index.tolist(), Stream.LIKELIHOOD)
    values = metric(denoiser, x0, num_bins, generator=generator, dequantizer=dequantizer, **cond)
    rows = {name: value.double().cpu() for name, value in values.items()}
    for name, value in rows.items():
        if bad := index.cpu()[~value.isfinite()].tolist():
            some = ", ".join(map(str, bad[:5])) + ", ..." * (len(bad) > 5)
            raise SolverError(
                f"{type(metric).__name__}: {name} is NaN or infinite for {len(bad)} of {len(index)} examples "
                f"computed at once ({some}); take a checkpoint from before training diverged, check these "
                "examples, or use other tolerances or more steps"
            )
    return {"index": index.cpu(), **rows}


def head(batch: IndexedBatch, num: int) -> IndexedBatch:
    """The examples of a batch whose index is below `num`."""
    keep = (batch.indices < num).nonzero()[:, 0]
    cond = select_conditions(batch.cond, keep.to(batch.x0.device), len(batch.x0))
    return IndexedBatch(batch.x0[keep.to(batch.x0.device)], cond, batch.indices[keep])


def all_gather_rows(rows: Sequence[dict[str, Tensor]], context: DistributedContext) -> dict[str, Tensor]:
    """The rows of all processes, one tensor per name, in the order of their ``index``."""
    parts = [part for of_rank in context.all_gather(list(rows)) for part in of_rank]
    return {name: value for name, value in concat_by_index(parts).items() if name != "index"}
