"""Any metrics of a model: list what is missing → features of what is stored → generate the rest → metrics.

Samples are stored in ``samples-KEY`` and values of examples in ``examples-KEY``, where KEY is a digest of all
that they depend on: the denoiser with its wrappers and weights, the sampler or metric, the seed, and the code
of all of these. More samples, other metrics or other features therefore start from what is there, and an
interrupted evaluation resumes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from scorelight.data.access import ModelExamples, examples_of
from scorelight.denoisers.base import Denoiser
from scorelight.denoisers.counting import CountingDenoiser
from scorelight.errors import ConfigurationError
from scorelight.evaluation.batch_size import Batches, BatchSize
from scorelight.evaluation.context import DistributedContext
from scorelight.evaluation.feature_rows import FeatureRows
from scorelight.evaluation.quality import check_samples, evaluate_examples
from scorelight.evaluation.reference import default_features, reference_set
from scorelight.evaluation.samples import SampleSource, quantize, samples_bar
from scorelight.evaluation.stores import ResultStores, data_key, written_in_background
from scorelight.images import grid, save
from scorelight.likelihood.dequantization import Dequantizer
from scorelight.metrics import (
    FeatureExtractor,
    Features,
    FeatureSet,
    Metric,
    MetricResult,
    SampleQualityMetric,
)
from scorelight.metrics.base import LikelihoodMetric, check_distinct, check_numbers
from scorelight.storage.component import spec
from scorelight.storage.identity import weights_digest
from scorelight.storage.shards import ShardPart, ShardStore

__all__ = ["Evaluator"]

_T = TypeVar("_T")


class Evaluator:
    """Evaluates metrics of one model; all processes of the context call it alike.

    Args:
        source: What samples are drawn from.
        data: Data module with the real examples.
        folder: Where samples and values are stored; all processes write to it.
        context: The processes that share the work.
        features: Feature network (default: by the shape of the examples, see `default_features`).
        num_samples: Samples for each seed.
        seeds: Seeds of samples and likelihoods.
        reference: An .npz with statistics of real examples, instead of those of the training set.
        num_examples: Validation examples for likelihoods, from the first on (default: all).
        dequantizer: Learned noise within a grey level, instead of uniform.
        batch_size: Samples or examples at once on each process, or ``auto``, see `Batches`; does not change
            the results.
        exact: What likelihoods are computed of, where samples are drawn in another precision (default: the
            source's denoiser).

    Raises:
        ConfigurationError: If a seed is given twice, which would make the standard error too small.
    """

    def __init__(
        self,
        source: SampleSource,
        data: LightningDataModule,
        folder: Path,
        context: DistributedContext,
        *,
        features: FeatureExtractor | None = None,
        num_samples: int = 10_000,
        seeds: Sequence[int] = (0,),
        reference: str | None = None,
        num_examples: int | None = None,
        dequantizer: Dequantizer | None = None,
        batch_size: BatchSize = 100,
        exact: Denoiser | None = None,
    ) -> None:
        if not seeds or len(set(seeds)) < len(seeds):
            raise ConfigurationError(f"seeds {[*seeds]}: give at least one, and each of them once")
        self.source = source
        self.data = data
        self.folder = folder
        self.context = context
        self.features = features
        self.num_samples = num_samples
        self.seeds = seeds
        self.reference = reference
        self.num_examples = num_examples
        self.dequantizer = dequantizer
        self.batch_size = batch_size
        self.exact = exact or source.denoiser
        self._stores = ResultStores(folder, source.denoiser, context)
        self._exact_stores = ResultStores(folder, self.exact, context)
        self.batch_sizes: list[int] = []
        """Of each set of samples and of values that was computed, the size of its batches at the end."""
        self.protocol: dict[str, Any] = {}
        """How the numbers were obtained."""
        self._sample_metrics: list[SampleQualityMetric] = []
        self._sample_numbers: list[list[dict[str, float]]] = []

    def run(self, metrics: Sequence[Metric]) -> dict[str, MetricResult]:
        """The numbers of all metrics by name.

        Raises:
            ConfigurationError: If a metric cannot be computed, or two have a number of the same name.
            SolverError: If samples, likelihoods or a number are NaN or infinite.
        """
        self._sample_metrics, self._sample_numbers = [], []
        for metric in metrics:
            metric.prepare(self)
        if self._sample_metrics:
            self._evaluate_samples()
        results: dict[str, MetricResult] = {}
        for metric in metrics:
            new = metric.evaluate(self)
            check_distinct(results, new)
            check_numbers(metric, {name: result.value for name, result in new.items()})
            results |= new
        return results

    # What metrics ask for

    def require_samples(self, metric: SampleQualityMetric) -> None:
        """Note that the metric will ask for `sample_numbers`, and check that it can have them."""
        check_samples([metric], self._features, self.source.shape, self.num_samples)
        self._sample_metrics.append(metric)

    def sample_numbers(self, metric: SampleQualityMetric) -> list[dict[str, float]]:
        """The numbers of the metric for the samples of each seed."""
        position = self._sample_metrics.index(metric)
        return [numbers[position] for numbers in self._sample_numbers]

    def require_examples(self, metric: LikelihoodMetric) -> None:
        """Note that the metric will ask for `example_values`, and check that there are examples for it."""
        name, data = type(metric).__name__, type(self.data).__name__
        if not len(self._validation):
            raise ConfigurationError(
                f"{name}: {data} has no validation examples; give it some, or leave the metric out"
            )
        if self.source.labels and "label" not in self._validation.first(1).cond:
            raise ConfigurationError(
                f"{name}: the model has classes, and {data} has no labels; name data with labels, or leave "
                "the metric out"
            )

    def example_values(self, metric: LikelihoodMetric) -> list[dict[str, Tensor]]:
        """The values of the metric for each validation example, for each seed."""
        size, num_bins = len(self._validation), self._validation.num_bins
        num = min(self.num_examples or size, size)
        stores = [self._evaluate_missing(metric, seed, num) for seed in self.seeds]
        self.protocol |= {
            "likelihood": [*self.protocol.get("likelihood", []), spec(metric)],
            "validation examples": f"{self._validation.fingerprint()}, {num} of {size}",
            "noise": _seeds(self.seeds),
            "grey levels": num_bins,
            "dequantization": _noise(self.dequantizer, num_bins),
        }
        rows = [store.merged(num) for store in stores]
        return [{name: v for name, v in values.items() if name != "index"} for values in rows]

    # Samples

    def _evaluate_samples(self) -> None:
        """The numbers of all metrics that asked for samples, one seed after the other."""
        real = reference_set(
            self._features, self.data, "train", self._sample_metrics, self.context, self.reference
        )
        sampler, labels = self.source.sampler, list(self.source.labels or ())
        stores = [self._stores.store("samples", sampler, labels, seed) for seed in self.seeds]
        for seed, store in zip(self.seeds, stores, strict=True):
            rows = self._rows(seed, store)
            self._sample_numbers.append(self._compare(store, rows, real))
        self._write_picture(stores[0])
        evaluations = torch.cat([s.merged(self.num_samples, ["evaluations"])["evaluations"] for s in stores])
        known = self.reference or f"{examples_of(self.data, 'train').fingerprint()}, all {real.count}"
        self.protocol |= {
            "metrics": [spec(metric) for metric in self._sample_metrics],
            "samples": f"{self.num_samples}, {_seeds(self.seeds)}",
            "sampler": spec(self.source.sampler),
            "evaluations per sample": round(evaluations.double().mean().item(), 2),
            "rounding": "to the nearest of 256 levels" if len(self.source.shape) == 3 else "none",
            "features": self._features.key,
            "real examples": known,
        }

    def _rows(self, seed: int, store: ShardStore) -> FeatureRows:
        """The features of this process's part of the samples of a seed; those that are missing are drawn."""
        rows = FeatureRows(self._features, self._sample_metrics, self.num_samples, folder=self.folder)
        with self._stores.missing(store, self.num_samples) as (missing, present):

            def take() -> None:
                self._read(store, present, rows)
                self._generate(seed, store, missing, rows)

            self.context.agree(take)
        return rows

    def _read(self, store: ShardStore, parts: Sequence[ShardPart], rows: FeatureRows) -> None:
        """The features of this process's part of the samples that are stored."""
        for part in parts:
            stored = store.read(part, ["x"])
            if stored["x"].shape[1:] != tuple(self.source.shape):
                raise ConfigurationError(f"{part.path}: has samples of another shape; remove it")
            rows.add(stored["index"], rows.extract(stored["x"].to(self.context.device)))

    def _generate(self, seed: int, store: ShardStore, missing: Tensor, rows: FeatureRows) -> None:
        """Draw samples and take their features, while another thread stores those before."""
        counting = CountingDenoiser(self.source.denoiser)
        source = self.source._replace(denoiser=counting)
        hidden = not self.context.is_main or not len(missing)

        def draw(index: Tensor) -> tuple[Tensor, Tensor, Features, Tensor]:
            counting.num_evaluations = 0
            x = quantize(source.draw(seed, index, bar)[0])
            return index, x, rows.extract(x), torch.full((len(index),), counting.num_evaluations)

        with (
            samples_bar(f"samples, seed {seed}", len(missing), hidden) as bar,
            written_in_background(store) as write,
        ):
            for index, x, features, evaluations in self._batches(missing, draw):
                write(index, x=x, evaluations=evaluations)
                rows.add(index, features)

    def _compare(self, store: ShardStore, rows: FeatureRows, real: FeatureSet) -> list[dict[str, float]]:
        """The numbers of each metric for the samples of one seed, all of which are stored."""
        self.context.broadcast(lambda: len(store.parts(self.num_samples)))
        fake = rows.gathered(self.context)
        return self.context.broadcast(lambda: [metric(real, fake) for metric in self._sample_metrics])

    def _batches(self, indices: Tensor, work: Callable[[Tensor], _T]) -> Iterator[_T]:
        """The results of the work on the indices, in batches."""
        batches = Batches(indices, self.batch_size, self.context.world_size)
        yield from batches.results(work)
        self.batch_sizes.append(batches.used)

    def _write_picture(self, store: ShardStore) -> None:
        """A picture of the first samples beside their folder."""
        if self.context.is_main:
            num = min(64, self.num_samples) if len(self.source.shape) == 3 else self.num_samples
            x = store.merged(num, ["x"])["x"]
            picture = grid(x / 127.5 - 1 if x.dtype == torch.uint8 else x)
            save(picture, store.folder.with_suffix(".png"))

    # Examples

    def _evaluate_missing(self, metric: LikelihoodMetric, seed: int, num: int) -> ShardStore:
        """The values of validation examples: those that are not stored yet are computed."""
        examples = self._validation
        key = metric, data_key(self.data, examples), self.dequantizer, seed
        store = self._exact_stores.store("examples", *key)

        def values(index: Tensor) -> dict[str, Tensor]:
            (batch,) = examples.batches([index], self.context.device)
            return evaluate_examples(metric, self.exact, batch, examples.num_bins, seed, self.dequantizer)

        def compute() -> None:
            hidden = not self.context.is_main or not len(missing)
            with (
                samples_bar(f"{type(metric).__name__}, seed {seed}", len(missing), hidden) as bar,
                written_in_background(store) as write,
            ):
                for rows in self._batches(missing, values):
                    write(**rows)
                    bar.update(len(rows["index"]))

        with self._exact_stores.missing(store, num) as (missing, _):
            self.context.agree(compute)
        return store

    @cached_property
    def _validation(self) -> ModelExamples:
        return examples_of(self.data, "val")

    @cached_property
    def _features(self) -> FeatureExtractor:
        features = self.features or default_features(self.source.shape)
        return features.to(self.context.device)


def _noise(dequantizer: Dequantizer | None, num_bins: int | None) -> str:
    """The noise within grey levels."""
    if dequantizer is None:
        return "uniform" if num_bins else "none"
    return f"{dequantizer.kind}, {type(dequantizer).__name__}-{weights_digest(dequantizer)}"


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"for each of the seeds {', '.join(map(str, seeds))}"
