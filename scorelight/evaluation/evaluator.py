"""A checkpoint judged by any metric: what is done is kept, and found again by what it depends on.

Samples lie in ``samples-KEY``, likelihoods in ``examples-KEY``, where KEY stands for the weights, the sampler
or metric, and the seed. More samples, other metrics or other features therefore start from what is there.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from scorelight.batch import Batch
from scorelight.denoisers.counting import CountingDenoiser
from scorelight.evaluation.reference import (
    DistributedContext,
    check_samples,
    draw,
    judge,
    quality_of,
    reference_set,
)
from scorelight.images import grid, save
from scorelight.likelihood.dequantization import Dequantizer
from scorelight.metrics import FeatureExtractor, SampleQualityMetric
from scorelight.metrics.features.base import weights_digest
from scorelight.metrics.likelihood import LikelihoodMetric
from scorelight.samplers.base import Sampler
from scorelight.storage.component import spec
from scorelight.storage.shards import ShardStore
from scorelight.training.module import ScoreModule

__all__ = ["Evaluator", "ProgressSampler", "Result"]


@dataclass(frozen=True, slots=True)
class Result:
    """One number of the table."""

    value: float
    """Mean over the seeds."""
    standard_error: float | None
    """Of the mean over what `over` says; None where there is but one."""
    over: str
    """``seeds`` or ``examples``."""
    each: list[float]
    """For each seed."""


class Evaluator:
    """Judges one set of weights.

    Args:
        module: The model, on the device; it is judged by its averaged denoiser, `module.ema.denoiser`.
        identity: Names the weights: another checkpoint has another.
        data: Data module with the real examples.
        folder: Where samples and likelihoods are kept; all processes write to it.
        batch_size: Samples or examples at once on each process.
        workers: The processes that share the work.
    """

    def __init__(
        self,
        module: ScoreModule,
        identity: str,
        data: Any,
        folder: Path,
        batch_size: int,
        workers: DistributedContext,
    ) -> None:
        self.module = module
        self.identity = identity
        self.data = data
        self.folder = folder
        self.batch_size = batch_size
        self.workers = workers
        self.said: dict[str, Any] = {}
        """The protocol: how the numbers came about."""

    def judge_samples(
        self,
        metrics: Sequence[SampleQualityMetric],
        features: FeatureExtractor,
        num_samples: int,
        seeds: Sequence[int],
        sampler: Sampler | None = None,
        reference: str | None = None,
    ) -> dict[str, Result]:
        """Numbers of the metrics, means and standard errors over the seeds."""
        features = features.to(self.workers.device)
        check_samples(metrics, features, self.module.shape, num_samples)
        real = reference_set(features, self.data, "train", metrics, self.workers, reference)
        chosen = sampler or self.module.sampler
        drawn = [self.samples(chosen, seed, num_samples) for seed in seeds]
        found = [quality_of(self._mine(p, num_samples), features, metrics, real, self.workers) for p in drawn]
        self._show(drawn[0])
        self.said |= {
            "samples": f"{num_samples}, {_seeds(seeds)}",
            "sampler": spec(chosen),
            "evaluations per sample": self._evaluations(drawn, num_samples),
            "rounding": "to the nearest of 256 levels" if len(self.module.shape) == 3 else "none",
            "features": features.key,
            "real examples": reference or f"{self.data.fingerprint('train')}, all {real.count}",
        }
        return {name: _over_seeds([numbers[name] for numbers in found]) for name in found[0]}

    def judge_examples(
        self,
        metric: LikelihoodMetric,
        seeds: Sequence[int],
        num_examples: int | None = None,
        dequantizer: Dequantizer | None = None,
    ) -> dict[str, Result]:
        """Numbers of the metric for validation examples, standard errors over these."""
        size = len(self.data.examples("val"))
        num = min(num_examples or size, size)
        parts = [self._values(metric, seed, num, dequantizer) for seed in seeds]
        self.workers.link.barrier()
        found = [part.merged(num) for part in parts]
        levels = self.data.num_bins
        self.said |= {
            "likelihood": [*self.said.get("likelihood", []), spec(metric)],
            "validation examples": f"{self.data.fingerprint('val')}, {num} of {size}",
            "noise": _seeds(seeds),
            "grey levels": levels,
            "dequantization": dequantizer.kind if dequantizer else "uniform" if levels else "none",
        }
        names = [name for name in found[0] if name != "index"]
        return {name: _over_examples(torch.stack([f[name] for f in found])) for name in names}

    def samples(self, sampler: Sampler, seed: int, num_samples: int) -> ShardStore:
        """Samples 0 to num_samples − 1 of a seed: those that are missing are drawn."""
        parts = ShardStore(self.folder / f"samples-{self._key(sampler, seed)}")
        missing = self.workers.broadcast_from_rank_zero(lambda: parts.missing(num_samples))
        batches = self.workers.share(missing, self.batch_size)
        counted = CountingDenoiser(self.module.ema.denoiser)
        self.module.ema.denoiser = counted  # type: ignore[assignment]
        try:
            with self._bar(f"samples, seed {seed}", len(batches) * sampler.num_steps) as bar:
                for index, x in draw(self.module, seed, batches, ProgressSampler(sampler, bar)):
                    evaluations = torch.full((len(index),), counted.num_evaluations)
                    parts.write(index, x=x, evaluations=evaluations)
                    counted.num_evaluations = 0
        finally:
            self.module.ema.denoiser = counted.denoiser  # type: ignore[assignment]
        self.workers.link.barrier()
        return parts

    def _show(self, parts: ShardStore) -> None:
        """A picture of the first samples beside their folder."""
        if self.workers.rank == 0:
            x = parts.merged(64 if len(self.module.shape) == 3 else None, ["x"])["x"]
            save(grid(x / 127.5 - 1 if x.dtype == torch.uint8 else x), parts.folder.with_suffix(".png"))

    def _mine(self, parts: ShardStore, num: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's part of the samples: every W-th file."""
        for file in parts.files()[self.workers.rank :: self.workers.world_size]:
            part = parts.read(file)
            keep = part["index"] < num
            if keep.any():
                yield part["index"][keep], part["x"][keep]

    def _values(
        self, metric: LikelihoodMetric, seed: int, num: int, dequantizer: Dequantizer | None
    ) -> ShardStore:
        """Numbers of validation examples: those that are missing are computed."""
        weights = weights_digest(dequantizer) if dequantizer else None
        parts = ShardStore(
            self.folder / f"examples-{self._key(metric, seed, self.data.fingerprint('val'), weights)}"
        )
        missing = self.workers.broadcast_from_rank_zero(lambda: parts.missing(num))
        batches = self.workers.share(missing, self.batch_size)
        with self._bar(f"{type(metric).__name__}, seed {seed}", len(batches)) as bar:
            for batch in self.data.examples("val").batches(batches):
                found = judge(
                    metric,
                    self.module.ema.denoiser,
                    self._seen(batch),
                    self.data.num_bins,
                    seed,
                    dequantizer,
                )
                parts.write(**found)
                bar.update()
        return parts

    def _seen(self, batch: Batch) -> Batch:
        """A stored batch as the model sees it, on its device."""
        device = self.workers.device
        cond = {name: value.to(device) for name, value in batch.cond.items()}
        return Batch(self.data.scale(batch.x0.to(device)), cond, batch.indices)

    def _evaluations(self, drawn: Sequence[ShardStore], num: int) -> float:
        counts = torch.cat([parts.merged(num, ["evaluations"])["evaluations"] for parts in drawn])
        return round(counts.double().mean().item(), 2)

    def _bar(self, what: str, total: int) -> Any:
        hidden = self.workers.rank > 0 or not total
        return tqdm(desc=what, total=total, mininterval=0.5, disable=hidden)

    def _key(self, *depends_on: Any) -> str:
        """Twelve hexadecimal digits that stand for the weights and all else that is given."""
        text = json.dumps([self.identity, *map(spec, depends_on)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class ProgressSampler(Sampler):
    """A sampler that moves a progress bar at every step.

    Args:
        sampler: The sampler.
        bar: A tqdm bar.
    """

    def __init__(self, sampler: Sampler, bar: Any) -> None:
        self.sampler = sampler
        self.bar = bar

    def trajectory(self, *args: Any) -> Iterator[Tensor]:
        """That of the sampler."""
        return self.sampler.trajectory(*args)

    def sample_path(self, *args: Any, **kwargs: Any) -> Iterator[Tensor]:
        """Those of the sampler."""
        for x in self.sampler.sample_path(*args, **kwargs):
            self.bar.update()
            yield x


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"for each of the seeds {', '.join(map(str, seeds))}"


def _over_seeds(each: list[float]) -> Result:
    mean = sum(each) / len(each)
    spread = math.sqrt(sum((v - mean) ** 2 for v in each) / (len(each) - 1)) if len(each) > 1 else None
    return Result(mean, spread / math.sqrt(len(each)) if spread is not None else None, "seeds", each)


def _over_examples(values: Tensor) -> Result:
    """Of values of shape (seeds, examples): the examples differ more than the noises of one of them."""
    mean = values.double().mean(0)
    error = mean.std().item() / math.sqrt(len(mean)) if len(mean) > 1 else None
    return Result(mean.mean().item(), error, "examples", values.double().mean(1).tolist())
