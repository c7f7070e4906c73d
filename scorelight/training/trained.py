"""What every module does in training, whatever its loss: randomness, guard, log, and resuming."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from scorelight.batch import as_batch, with_indices
from scorelight.data.loaders import global_seed
from scorelight.errors import ConfigurationError
from scorelight.objectives.base import Loss
from scorelight.processes.base import ForwardProcess
from scorelight.rng import PhiloxGenerator, Stream, seed_device, step_seed
from scorelight.training.accumulation import MicroBatches
from scorelight.training.checks import (
    check_checkpoint,
    check_fit,
    check_validation_examples,
    require_floating,
)
from scorelight.training.class_check import NETWORK_KEY, check_classes_of_data, check_stated_classes
from scorelight.training.configured import ConfiguredModule
from scorelight.training.constants import keep_constants_local
from scorelight.training.divergence import DivergenceGuard
from scorelight.training.lightning_private import accumulate_by_epoch, attached_trainer
from scorelight.training.randomness import dequantize, module_generator
from scorelight.training.step_log import StepLog, is_reported

__all__ = ["TrainedModule", "trained_module"]


class TrainedModule(ConfiguredModule, ABC):
    """A model of noisy data in training: the base of `ScoreModule` and `ClassifierModule`.

    A subclass stores its components, calls `save_hyperparameters`, and writes `training_loss` and
    `validation_loss`. Times and noise are a function of (seed, step, place in the batch of the step); losses
    that are not finite never reach the weights; the numbers of a step are logged before its checkpoint.

    Args:
        optimizer: Optimizer of the parameters.
        lr_scheduler: Learning-rate schedule, stepped after every optimizer step.
        seed: Seed of the noise in training and validation (default: that of `seed_everything`).
    """

    process: ForwardProcess
    """How data turn into noise."""
    shape: tuple[int, ...]
    """Shape of one example."""
    num_classes: int | None
    """Classes that the model knows."""
    class_names: Sequence[str] | None = None
    """Names of the classes, if the data have them."""
    classes_key: str = NETWORK_KEY
    """How a message names `num_classes`."""
    dequantize: bool = False
    """Whether the grey levels of the data are spread by uniform noise."""

    def __init__(
        self, optimizer: OptimizerCallable, lr_scheduler: LRSchedulerCallable | None, seed: int | None
    ) -> None:
        super().__init__(optimizer, lr_scheduler)
        self.seed = global_seed() if seed is None else seed
        self.step_log = StepLog()
        self.micro_batches = MicroBatches()
        self.guard = DivergenceGuard()
        self.val_loss = MeanMetric()

    @abstractmethod
    def training_loss(self, x0: Tensor, cond: Mapping[str, Any], generator: PhiloxGenerator) -> Loss:
        """Loss of each training example, shape (B,), and its time."""

    @abstractmethod
    def validation_loss(self, x0: Tensor, cond: Mapping[str, Any], generator: PhiloxGenerator) -> Tensor:
        """Loss of each validation example, shape (B,)."""

    def after_step(self) -> None:
        """Called after each optimizer step, before its checkpoint."""

    def configure_callbacks(self) -> list[Callback]:
        """Check the run: in the first of Lightning's hooks, before a logger or a callback writes anything."""
        check_fit(self.trainer, self.dequantize)
        check_stated_classes(self.trainer, self.num_classes, self.classes_key)
        return []

    def setup(self, stage: str) -> None:
        """Check the data, and take the names of their classes: later their files may be gone."""
        super().setup(stage)
        check_validation_examples(self.trainer)
        if stage == "fit":
            data = getattr(self.trainer, "datamodule", None)
            check_classes_of_data(data, self.num_classes, self.classes_key)
            self._name_classes(getattr(data, "class_names", None))

    def _name_classes(self, names: Any) -> None:
        """Keep the names, if they are one for each class: a stranger's file may hold anything."""
        strings = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
        if strings and len(names) == self.num_classes:
            self.class_names = list(names)

    def on_train_start(self) -> None:
        """Count the micro-batches of optimizer steps."""
        super().on_train_start()
        self.guard = DivergenceGuard()
        self.micro_batches.attach(self.trainer)
        keep_constants_local(self, self.trainer.model)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to resume from weights that do not fit, and from weights alone."""
        trainer = attached_trainer(self)
        if trainer is not None and self.strict_loading:
            check_checkpoint(self, checkpoint, resuming=trainer.state.fn == "fit")
        super().on_load_checkpoint(checkpoint)
        if self.class_names is None:  # otherwise the data at hand have told
            self._name_classes(checkpoint.get("class_names"))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to write a checkpoint after a step that was left out."""
        self.guard.read(self)
        super().on_save_checkpoint(checkpoint)
        checkpoint["class_names"] = self.class_names

    def on_validation_start(self) -> None:
        """Refuse to validate after a step that was left out."""
        self.guard.read(self)

    def on_train_end(self) -> None:
        """Check the last steps; leave the trainer as it was."""
        self.guard.read(self)
        accumulate_by_epoch(self.trainer)

    def on_fit_end(self) -> None:
        """Refuse data without a batch, of which Lightning makes no step and an apparent success."""
        if self.trainer.num_training_batches == 0 and self.trainer.limit_train_batches:
            raise ConfigurationError(
                "the training data give no batch, so that nothing was trained; add examples"
            )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Make the network's own randomness (dropout) a function of (seed, step, micro-batch, rank)."""
        self.micro_batches.begin(self.trainer)
        number = self.micro_batches.number
        seed_device(step_seed(self.seed, self.global_step, number, self.global_rank), self.device)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Mean loss; times and noise depend on (seed, step, place in the batch of the step) alone."""
        x0, cond, _ = as_batch(batch)
        require_floating(x0)
        first = self.micro_batches.add(len(x0))
        generator = module_generator(self, self.seed, first, len(x0), x0.device)
        loss = self.training_loss(x0, cond, generator)
        mean: Tensor = loss.value.mean()
        self.step_log.start(self, loss, mean, self.process)
        return self.guard.loss(self, loss.value, mean, loss.t)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Keep a step that is not finite away from the weights."""
        self.guard.before_step(self, optimizer)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as Lightning does; by norm, with the norm that `on_before_optimizer_step` has taken."""
        plugin = type(self.trainer.precision_plugin)
        usual = plugin.clip_gradients is Precision.clip_gradients
        usual = usual and plugin.clip_grad_by_norm is Precision.clip_grad_by_norm
        if gradient_clip_val and usual and gradient_clip_algorithm in (None, GradClipAlgorithmType.NORM):
            self.guard.clip(optimizer, gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and log: here, since later hooks come after the checkpoint is written."""
        super().optimizer_step(*args, **kwargs)
        self.after_step()
        if is_reported(self.trainer, self.global_step + 1):
            self.guard.read(self)
            if self.guard.norms and self.guard.norms[-1][0] == self.global_step:
                self.step_log.add("train/gradient_norm", self.guard.norms[-1][1])
        self.step_log.write(self)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Loss at times and noise fixed by (seed, index of the example)."""
        x0, cond, indices = with_indices(batch, batch_idx)
        generator = PhiloxGenerator(self.seed, indices, Stream.VALIDATION)
        self.val_loss.update(self.validation_loss(x0, cond, generator))
        self.log("val/loss", self.val_loss, prog_bar=True)

    def spread(self, x0: Tensor, generator: PhiloxGenerator) -> Tensor:
        """The data, with their grey levels spread by uniform noise if the model asks for it."""
        return dequantize(self.trainer, x0, generator) if self.dequantize else x0


def trained_module(module: LightningModule) -> TrainedModule:
    """The module itself, for callbacks that only work with a `TrainedModule`.

    Raises:
        ConfigurationError: If it has no `guard`.
    """
    if not hasattr(module, "guard"):
        raise ConfigurationError(
            f"{type(module).__name__}: this callback needs a ScoreModule or a ClassifierModule"
        )
    return cast(TrainedModule, module)
