"""Metrics of samples and likelihoods of data while a model is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from scorelight.batch import with_indices
from scorelight.errors import ConfigurationError
from scorelight.evaluation.context import DistributedContext
from scorelight.evaluation.feature_rows import FeatureRows
from scorelight.evaluation.quality import (
    all_gather_rows,
    check_samples,
    evaluate_examples,
    feature_set,
    head,
)
from scorelight.evaluation.reference import default_features, reference_set
from scorelight.evaluation.run_cost import Drawing
from scorelight.evaluation.samples import SampleSource, quantize
from scorelight.metrics import FeatureExtractor, FeatureSet, FrechetDistance, SampleQualityMetric
from scorelight.metrics.base import LikelihoodMetric, numbers_of
from scorelight.metrics.likelihood import NegativeLogLikelihood
from scorelight.samplers.base import Sampler
from scorelight.training.module import ScoreModule, score_module

__all__ = ["FIDCallback", "NLLCallback"]


class _EveryNValidations(Callback):
    """Acts in every n-th validation, the last of a run among them.

    Args:
        every_n_validations: How often, at least 1.
    """

    def __init__(self, every_n_validations: int) -> None:
        if every_n_validations < 1:
            raise ConfigurationError(f"every_n_validations={every_n_validations}: must be at least 1")
        self.every_n_validations = every_n_validations
        self._validations = 0
        self._due = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count; validations outside training count on their own."""
        if trainer.sanity_checking:
            return
        self._validations += 1
        last = trainer.state.fn != "fit" or trainer.global_step >= trainer.max_steps > 0
        self._due = last or self._validations % self.every_n_validations == 0

    def state_dict(self) -> dict[str, Any]:
        """The number of validations, for the checkpoint."""
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The number of validations, from the checkpoint."""
        self._validations = state_dict["validations"]


class FIDCallback(_EveryNValidations):
    """Evaluates samples of the averaged weights in validation: logs ``val/frechet_distance`` and the like.

    The same samples are drawn each time, divided among the processes, under the model's guidance if it has
    one; real examples are the complete training set, whose features are computed once (`reference_set`). With
    `InceptionFeatures` and 50,000 samples the Fréchet distance is the FID of the literature.

    Args:
        features: Feature network (default: by the shape of the data, see `default_features`).
        metrics: What to compute (default: `FrechetDistance`).
        num_samples: Samples to draw each time.
        every_n_validations: How often, in validations; the last one of a run is always among them.
        sampler: How to draw (default: the model's own sampler).
        batch_size: Samples drawn at once by each process; does not change them.
        seed: Seed of the samples.
        reference: An .npz with statistics of real examples, instead of those of the training set.
    """

    def __init__(
        self,
        features: FeatureExtractor | None = None,
        metrics: Sequence[SampleQualityMetric] | None = None,
        num_samples: int = 1000,
        every_n_validations: int = 1,
        sampler: Sampler | None = None,
        batch_size: int = 100,
        seed: int = 0,
        reference: str | None = None,
    ) -> None:
        super().__init__(every_n_validations)
        if num_samples < 2 or batch_size < 1:
            raise ConfigurationError(
                f"FIDCallback: num_samples={num_samples}, batch_size={batch_size}: at least 2 and 1"
            )
        self.features = features
        self.metrics = list(metrics or [FrechetDistance()])
        self.num_samples = num_samples
        self.sampler = sampler
        self.batch_size = batch_size
        self.seed = seed
        self.reference = reference
        self._real: FeatureSet | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Load the feature network and the statistics of the real examples, before the first step."""
        module = score_module(pl_module)
        if stage not in ("fit", "validate") or self._real is not None:
            return
        self.features = self.features or default_features(module.shape)
        if self.sampler:
            self.sampler.levels(module.denoiser.process)
        context = DistributedContext.from_trainer(trainer)
        self.features.to(context.device)
        check_samples(self.metrics, self.features, module.shape, self.num_samples)
        data = getattr(trainer, "datamodule", None)
        self._real = reference_set(self.features, data, "train", self.metrics, context, self.reference)

    def drawing(self, module: ScoreModule, num_steps: int, num_validations: int) -> Drawing:
        """What it draws in a run."""
        times = math.ceil(num_validations / self.every_n_validations)
        sampler = self.sampler or module.sampler
        return Drawing("FIDCallback", self.num_samples, sampler, times, divided=True)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, compare and log."""
        if trainer.sanity_checking or not self._due:
            return
        assert self.features is not None and self._real is not None
        context, source = DistributedContext.from_trainer(trainer), self._source(score_module(pl_module))
        batches = context.shard(torch.arange(self.num_samples), self.batch_size)
        samples = ((index, quantize(source.draw(self.seed, index)[0])) for index in batches)
        rows = FeatureRows(self.features, self.metrics, self.num_samples)
        real, fake = self._real, feature_set(samples, rows, context)
        numbers = context.broadcast(lambda: numbers_of(self.metrics, real, fake))
        pl_module.log_dict({f"val/{name}": value for name, value in numbers.items()})

    def _source(self, module: ScoreModule) -> SampleSource:
        denoiser = module.denoiser_for("ema")
        return SampleSource(denoiser, self.sampler or module.sampler, module.shape, denoiser.labels)


class NLLCallback(_EveryNValidations):
    """Likelihood of validation examples under the averaged weights: logs ``val/bits_per_dim`` and its error.

    Each process takes the examples of its own validation batches, with noises that are functions of
    (seed, example). The standard error is that over the examples.

    Args:
        metric: What to compute (default: `NegativeLogLikelihood`).
        num_examples: Validation examples to take, from the first on.
        every_n_validations: How often, in validations; the last one of a run is always among them.
        seed: Seed of dequantisation and probes.
    """

    def __init__(
        self,
        metric: LikelihoodMetric | None = None,
        num_examples: int = 100,
        every_n_validations: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(every_n_validations)
        if num_examples < 1:
            raise ConfigurationError(f"NLLCallback: num_examples={num_examples}: must be at least 1")
        self.metric = metric or NegativeLogLikelihood()
        self.num_examples = num_examples
        self.seed = seed
        self._rows: list[dict[str, Tensor]] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last validation."""
        self._rows = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take the examples of this batch."""
        if trainer.sanity_checking or not self._due:
            return
        mine = head(with_indices(batch, batch_idx), self.num_examples)
        if len(mine.x0):
            num_bins = getattr(getattr(trainer, "datamodule", None), "num_bins", None)
            denoiser = score_module(pl_module).denoiser_for("ema")
            self._rows.append(evaluate_examples(self.metric, denoiser, mine, num_bins, self.seed))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the processes' examples together and log means and standard errors."""
        if trainer.sanity_checking or not self._due:
            return
        for name, value in all_gather_rows(self._rows, DistributedContext.from_trainer(trainer)).items():
            pl_module.log(f"val/{name}", value.mean())
            if len(value) > 1:
                pl_module.log(f"val/{name}_error", value.std() / len(value) ** 0.5)
