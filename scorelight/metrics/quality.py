"""Metrics of samples that are accumulated over batches and processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from scorelight.errors import ConfigurationError
from scorelight.metrics.base import SampleQualityMetric, numbers_of
from scorelight.metrics.features.base import FeatureExtractor, Features, finite_features
from scorelight.metrics.statistics import FeatureSet, Moments

__all__ = ["SampleQuality"]


class SampleQuality(Metric):
    """Metrics of samples against real examples, by the features of both.

    Moments are accumulated in float64; the features themselves are stored only if a metric needs them.
    Processes are synchronised in `compute` and `feature_set`, which all of them must call. If `update` is
    given the indices of examples, the numbers do not depend on how these are distributed over batches and
    processes, except for the rounding in float32 of features that depend on the size of the batch.

    Move it to the device of the process, like any metric of torchmetrics. The extractor is not part of its
    state: it is moved to the device of the examples.

    Args:
        features: Feature extractor.
        metrics: Metrics to compute.
        real: Statistics of the real examples; without them, pass the examples to ``update(x, real=True)``.

    Raises:
        ConfigurationError: If the statistics were computed with other features.
    """

    full_state_update = False
    features: FeatureExtractor

    def __init__(
        self,
        features: FeatureExtractor,
        metrics: Sequence[SampleQualityMetric],
        real: FeatureSet | None = None,
    ) -> None:
        super().__init__()
        self.__dict__["features"] = features  # not a sub-module: no part of checkpoints
        self.metrics = list(metrics)
        self.real = real
        self._stored = {
            "features": any(metric.needs_features for metric in metrics),
            "logits": any(metric.needs_logits for metric in metrics),
        }
        for name in _STATES:
            self.add_state(f"real_{name}", [], dist_reduce_fx=None)
            self.add_state(f"fake_{name}", [], dist_reduce_fx=None)
        if real and real.key not in ("", features.key):
            raise ConfigurationError(
                f"statistics of real examples were made by {real.key}, not by {features.key}: make "
                "them again, or use the same features and weights"
            )

    def update(self, x: Tensor, indices: Tensor | None = None, real: bool = False) -> None:
        """Add examples.

        Args:
            x: Stored examples: uint8 images (N, C, H, W), 0 to 255, or float vectors (N, D).
            indices: Their indices among all examples, shape (N,), which determine their order in the result.
            real: Whether they are real examples.

        Raises:
            ConfigurationError: If a feature is NaN or infinite.
        """
        if real and self.real:
            raise ConfigurationError(
                "real examples are given although their statistics are: give one of both"
            )
        if not len(x):
            return
        kind = "real" if real else "fake"
        features = finite_features(self.features, x, "real examples" if real else "samples")
        self._add_moments(kind, Moments.of(features.values.to(self.device)))
        self._add_bank(kind, features)
        if indices is not None:
            self._state(kind, "indices").append(indices.long().to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """All numbers by name, float64, the same on every process.

        Raises:
            ConfigurationError: If there are too few examples, or two metrics of one name.
        """
        numbers = numbers_of(self.metrics, self.feature_set(real=True), self.feature_set())
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in numbers.items()}

    def feature_set(self, real: bool = False) -> FeatureSet:
        """Statistics of the generated or the real examples of all processes; all of them must call it.

        Raises:
            ConfigurationError: If there are fewer than two examples, or one was added twice.
        """
        if real and self.real:
            return self.real
        entered = self._is_synced
        with self.sync_context(should_sync=not entered, should_unsync=not entered):
            return self._feature_set("real" if real else "fake")

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Synchronise the processes; those without examples send empty tensors of the right type."""
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if distributed and not self._is_synced:
            for kind, name in product(("real", "fake"), _STATES):
                parts = self._parts(kind, name) or [_STATES[name].to(self.device)]
                setattr(self, f"{kind}_{name}", [torch.cat(parts)])
        super().sync(*args, **kwargs)

    def _feature_set(self, kind: str) -> FeatureSet:
        parts = {name: self._parts(kind, name) for name in _STATES}
        if not parts["count"]:
            raise ConfigurationError(f"there are no {kind} examples to evaluate")
        moments = reduce(Moments.merge, self._moments(kind))
        order = _order(parts["indices"], moments.count, kind)
        banks = {k: torch.cat(parts[k])[order] if parts[k] else None for k in ("features", "logits")}
        return FeatureSet.from_moments(moments, **banks, key=self.features.key)

    def _moments(self, kind: str) -> Iterator[Moments]:
        """The moments of each process that has examples; before `sync`, of this process only."""
        count, mean, scatter = (self._parts(kind, name) for name in ("count", "mean", "scatter"))
        for n, m, s in zip(count, mean, scatter, strict=True):
            yield Moments(int(n), m[0], s[0])

    def _add_moments(self, kind: str, moments: Moments) -> None:
        total = reduce(Moments.merge, [*self._moments(kind), moments])
        count = torch.tensor(total.count, device=total.mean.device)
        for name, value in (("count", count), ("mean", total.mean), ("scatter", total.scatter)):
            setattr(self, f"{kind}_{name}", [value[None]])

    def _add_bank(self, kind: str, features: Features) -> None:
        for name, value in (("features", features.values), ("logits", features.logits)):
            if self._stored[name] and value is not None:
                self._state(kind, name).append(value.to(self.device))

    def _parts(self, kind: str, name: str) -> list[Tensor]:
        """The tensors of a state, without the empty ones of processes that have no examples."""
        return [part for part in self._state(kind, name) if len(part)]

    def _state(self, kind: str, name: str) -> list[Tensor]:
        state: list[Tensor] = getattr(self, f"{kind}_{name}")
        return state


_STATES = {
    "count": torch.empty(0, dtype=torch.long),
    "mean": torch.empty(0, 0, dtype=torch.float64),
    "scatter": torch.empty(0, 0, 0, dtype=torch.float64),
    "features": torch.empty(0, 0),
    "logits": torch.empty(0, 0),
    "indices": torch.empty(0, dtype=torch.long),
}
"""The states, each a list of tensors, with the tensor for an empty list."""


def _order(parts: list[Tensor], count: int, kind: str) -> Tensor | slice:
    """The order of the examples by their indices; the order in which they were added without indices."""
    if not parts:
        return slice(None)
    indices = torch.cat(parts)
    if len(indices) != count:
        raise ConfigurationError(
            f"{len(indices)} of {count} {kind} examples came with their index: all or none"
        )
    if (distinct := len(set(indices.tolist()))) != count:
        raise ConfigurationError(
            f"{count - distinct} {kind} examples came in twice; did a sampler pad the data? Set "
            "trainer.use_distributed_sampler: false, or call reset() before"
        )
    return indices.argsort()
