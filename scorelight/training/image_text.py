"""Training of a pair of encoders of noisy images and captions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import Adam
from torchmetrics import MeanMetric
from typing_extensions import override

from scorelight.errors import ConfigurationError
from scorelight.image_text.captions import DIGIT_CAPTIONS
from scorelight.image_text.model import NoisyCLIP, ZeroShotClassifier
from scorelight.networks.base import Encoder
from scorelight.objectives.base import Loss, NoisyBatch, sample_noisy
from scorelight.processes.base import ForwardProcess
from scorelight.rng import PhiloxGenerator
from scorelight.storage.component import refuse_none, spec
from scorelight.times import TimeSampler, UniformTime
from scorelight.training.lightning_private import INSTANTIATOR
from scorelight.training.trained import TrainedModule

__all__ = ["ImageTextModule"]


class ImageTextModule(TrainedModule):
    """A `NoisyCLIP` in training, for `CLIPGuidance` (Radford et al., 2021, sec. 2.3).

    Of the products of all images and captions of a batch, it minimises the mean cross-entropy, in nats, of
    finding the caption of each image and the image of each caption. Captions are drawn anew at each step. A
    process compares its own batch only.

    Args:
        network: Encoder of noisy images, such as `UNetEncoder`.
        process: How data turn into noise; the result serves models of every process.
        num_features: Size of the encodings.
        depth: Layers of the encoder of words.
        time_sampler: Distribution of t (default `UniformTime`).
        optimizer: Optimizer of the parameters.
        lr_scheduler: Learning-rate schedule, stepped after every optimizer step.
        seed: Seed of noise and captions (default: that of `seed_everything`).
    """

    kind = "pair of encoders of images and captions"
    classes_key = "model: number of digits"

    def __init__(
        self,
        network: Encoder,
        process: ForwardProcess,
        num_features: int = 64,
        depth: int = 2,
        time_sampler: TimeSampler | None = None,
        optimizer: OptimizerCallable = Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        seed: int | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__(optimizer, lr_scheduler, seed)
        refuse_none(ImageTextModule.__init__, given, "model")
        self.save_hyperparameters({**INSTANTIATOR, **spec(given | {"seed": self.seed})}, logger=False)
        self.model = NoisyCLIP(network, process, num_features, depth)
        self.time_sampler = time_sampler or UniformTime()
        self.shape, self.num_classes = network.shape, 10
        self.val_accuracy = MeanMetric()

    @property
    def process(self) -> ForwardProcess:  # type: ignore[override]
        """That of the encoders."""
        return self.model.process

    @property
    def classifier(self) -> ZeroShotClassifier:
        """Of the ten digits, by their plain captions."""
        return ZeroShotClassifier(self.model, DIGIT_CAPTIONS, self.process)

    @override
    def training_loss(self, x0: Tensor, cond: Mapping[str, Any], generator: PhiloxGenerator) -> Loss:
        noisy = sample_noisy(self.process, x0, self.time_sampler, generator)
        value = self._contrast(noisy, cond, generator)
        return Loss(noisy.weight * value, noisy.t)

    @override
    def validation_loss(self, x0: Tensor, cond: Mapping[str, Any], generator: PhiloxGenerator) -> Tensor:
        noisy = sample_noisy(self.process, x0, self.time_sampler, generator)
        guess = self.classifier.log_prob(noisy.x_t, noisy.level).argmax(1)
        self.val_accuracy.update((guess == cond["label"]).float())
        self.log("val/accuracy", self.val_accuracy)
        return noisy.weight * self._contrast(noisy, cond, generator)

    def _contrast(self, noisy: NoisyBatch, cond: Mapping[str, Any], generator: PhiloxGenerator) -> Tensor:
        if missing := {"label", "width", "slant"} - cond.keys():
            raise ConfigurationError(
                f"the data have no {' and no '.join(sorted(missing))}, of which captions are made; use "
                "DescribedDigitsDataModule"
            )
        captions = self.model.captions.draw(cond, generator)
        images = self.model.encode_images(noisy.x_t, noisy.level)
        products = images @ self.model.encode_captions(captions).T
        own = torch.arange(len(products), device=products.device)
        both = (cross_entropy(p, own, reduction="none") for p in (products, products.T))
        return torch.stack([*both]).mean(0)
