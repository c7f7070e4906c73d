"""Training of a classifier of noisy examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import Adam
from torchmetrics import MeanMetric
from typing_extensions import override

from scorelight.classifiers.network import NetworkClassifier
from scorelight.errors import ConfigurationError
from scorelight.networks.base import Encoder, NumClasses
from scorelight.objectives.base import Loss, NoisyBatch, sample_noisy
from scorelight.processes.base import ForwardProcess
from scorelight.rng import PhiloxGenerator
from scorelight.storage.component import refuse_none, spec
from scorelight.times import TimeSampler, UniformTime
from scorelight.training.lightning_private import INSTANTIATOR
from scorelight.training.trained import TrainedModule

__all__ = ["ClassifierModule"]


class ClassifierModule(TrainedModule):
    """A classifier p(c | x_t) in training, for `ClassifierGuidance` (Dhariwal & Nichol, 2021, sec. 4).

    It minimises −log p(c | x_t) in nats at random noise levels. The checkpoint holds ``classifier.*`` and,
    under ``hyper_parameters``, all that is needed to build it again.

    Args:
        network: Encoder of noisy examples, such as `UNetEncoder`.
        process: How data turn into noise; the classifier serves models of every process.
        num_classes: Number of classes; ``data`` on the command line: as many as the data have.
        time_sampler: Distribution of t (default `UniformTime`).
        optimizer: Optimizer of the parameters.
        lr_scheduler: Learning-rate schedule, stepped after every optimizer step.
        seed: Seed of the noise in training and validation (default: that of `seed_everything`).
        compile_network: Whether to run the network through `torch.compile`: worth its minutes on a GPU.
    """

    kind = "classifier"
    classes_key = "model.num_classes"

    def __init__(
        self,
        network: Encoder,
        process: ForwardProcess,
        num_classes: NumClasses,
        time_sampler: TimeSampler | None = None,
        optimizer: OptimizerCallable = Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        seed: int | None = None,
        compile_network: bool = False,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__(optimizer, lr_scheduler, seed)
        refuse_none(ClassifierModule.__init__, given, "model")
        self.save_hyperparameters({**INSTANTIATOR, **spec(given | {"seed": self.seed})}, logger=False)
        if not isinstance(num_classes, int) or num_classes < 2:
            raise ConfigurationError(f"model.num_classes={num_classes}: at least 2 classes are needed")
        if any(p.requires_grad for p in process.parameters()):
            raise ConfigurationError(
                f"{type(process).__name__} is learned: a classifier would learn one that is easy to "
                "classify; use another process, such as VPSDE"
            )
        self.classifier = NetworkClassifier(network, num_classes, process)
        self.time_sampler = time_sampler or UniformTime()
        self.shape, self.num_classes = network.shape, num_classes
        self.compile_network = compile_network
        self.val_accuracy = MeanMetric()

    @property
    def process(self) -> ForwardProcess:  # type: ignore[override]
        """That of the classifier."""
        return self.classifier.process

    def setup(self, stage: str) -> None:
        """Compile the network; check the data."""
        super().setup(stage)
        if self.compile_network:
            self.classifier.encoder.compile()

    @override
    def training_loss(self, x0: Tensor, cond: Mapping[str, Any], generator: PhiloxGenerator) -> Loss:
        noisy = sample_noisy(self.process, x0, self.time_sampler, generator)
        value = -self._log_prob(noisy).gather(1, _labels(cond)[:, None])[:, 0]
        self.time_sampler.observe(self.process, noisy.t, value.detach())
        return Loss(noisy.weight * value, noisy.t)

    @override
    def validation_loss(self, x0: Tensor, cond: Mapping[str, Any], generator: PhiloxGenerator) -> Tensor:
        noisy = sample_noisy(self.process, x0, self.time_sampler, generator)
        log_prob, label = self._log_prob(noisy), _labels(cond)
        self.val_accuracy.update((log_prob.argmax(1) == label).float())
        self.log("val/accuracy", self.val_accuracy)
        return noisy.weight * -log_prob.gather(1, label[:, None])[:, 0]

    def _log_prob(self, noisy: NoisyBatch) -> Tensor:
        return self.classifier.log_prob(noisy.x_t, noisy.level)


def _labels(cond: Mapping[str, Any]) -> Tensor:
    """The labels of a batch.

    Raises:
        ConfigurationError: If it has none.
    """
    label = cond.get("label")
    if not isinstance(label, Tensor):
        raise ConfigurationError("a classifier is trained on labels, and a batch of the data has none")
    return label.long()
