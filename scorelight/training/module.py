"""Training and sampling under Lightning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, cast

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import Adam, Optimizer
from torchmetrics import MeanMetric

from scorelight.batch import Seeds, as_batch, with_indices
from scorelight.conditions import drop_conditions
from scorelight.data.access import examples_of
from scorelight.data.loaders import global_seed
from scorelight.denoisers.base import Denoiser, MakeWrapper, wrap
from scorelight.denoisers.network import NetworkDenoiser
from scorelight.errors import ConfigurationError
from scorelight.networks.base import ScoreNetwork
from scorelight.objectives.base import Objective
from scorelight.parameterizations import Parameterization
from scorelight.processes.base import ForwardProcess
from scorelight.rng import PhiloxGenerator, Stream, hash_seed, rand, seed_device
from scorelight.samplers.base import Sampler, final_state
from scorelight.samplers.generate import generate
from scorelight.storage.component import refuse_none, spec
from scorelight.training.accumulation import MicroBatches
from scorelight.training.checks import (
    check_checkpoint,
    check_compatible,
    check_fit,
    check_guidance,
    check_validation_examples,
    require_floating,
)
from scorelight.training.class_check import check_classes_of_data, check_stated_classes
from scorelight.training.configured import ConfiguredModule
from scorelight.training.constants import keep_constants_local
from scorelight.training.divergence import DivergenceGuard
from scorelight.training.ema import ExponentialMovingAverage
from scorelight.training.lightning_private import INSTANTIATOR, accumulate_by_epoch, attached_trainer
from scorelight.training.randomness import dequantize, module_generator
from scorelight.training.step_log import StepLog, is_reported

__all__ = ["ScoreModule", "Weights", "score_module"]

Weights = Literal["ema", "raw"]
"""The average of the weights, or the weights that are trained."""


class ScoreModule(ConfiguredModule):
    """A score-based generative model in training: network × process × parameterization × objective.

    The checkpoint holds ``denoiser.*`` (the trained weights), ``ema.denoiser.*`` (their average, which
    validation and sampling use) and, under ``hyper_parameters``, all that is needed to build both again.

    Args:
        network: The network.
        process: How data turns into noise.
        parameterization: What the network outputs.
        objective: What is minimised.
        sampler: How samples are drawn.
        optimizer: Optimizer of the parameters.
        lr_scheduler: Learning-rate schedule, stepped after every optimizer step.
        ema_decay: Decay of the average of the weights, 0 <= ema_decay < 1.
        condition_dropout: Probability that a training example loses its conditions, for classifier-free
            guidance (Ho & Salimans, 2021).
        seed: Seed of the noise in training and validation (default: that of `seed_everything`).
        compile_network: Whether to run the network through `torch.compile`: worth its minutes on a GPU.
        dequantize: Whether to learn the density of the data's grey levels spread by uniform noise, of which
            bits/dim are a bound (Theis et al., 2016), instead of the grey levels themselves.
        guidance: Wraps the denoiser when samples are drawn and evaluated, such as `ClippedDenoiser`.
    """

    def __init__(
        self,
        network: ScoreNetwork,
        process: ForwardProcess,
        parameterization: Parameterization,
        objective: Objective,
        sampler: Sampler,
        optimizer: OptimizerCallable = Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        ema_decay: float = 0.999,
        condition_dropout: float = 0.0,
        seed: int | None = None,
        compile_network: bool = False,
        dequantize: bool = False,
        guidance: MakeWrapper | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__(optimizer, lr_scheduler)
        refuse_none(ScoreModule.__init__, given, "model")
        self.seed = global_seed() if seed is None else seed
        self.save_hyperparameters({**INSTANTIATOR, **spec(given | {"seed": self.seed})}, logger=False)
        check_compatible(network, process, objective, sampler, condition_dropout)
        self.denoiser = NetworkDenoiser(network, process, parameterization)
        self.ema = ExponentialMovingAverage(self.denoiser, ema_decay)
        self.objective = objective
        self.sampler = sampler
        self.shape = network.shape
        self.num_classes = network.num_classes
        self.condition_dropout = condition_dropout
        self.guidance = guidance
        self.compile_network = compile_network
        self.dequantize = dequantize
        self.step_log = StepLog()
        self.micro_batches = MicroBatches()
        self.guard = DivergenceGuard()
        self.val_loss = MeanMetric()

    def configure_callbacks(self) -> list[Callback]:
        """Check the run: in the first of Lightning's hooks, before a logger or a callback writes anything."""
        check_fit(self.trainer, self.dequantize)
        check_stated_classes(self.trainer, self.num_classes)
        self.denoiser_for("ema")  # so that guidance is refused before the training
        return []

    def setup(self, stage: str) -> None:
        """Compile the network; check the data; let the objective see the training set, if it wants to."""
        super().setup(stage)
        if self.compile_network:
            for denoiser in (self.denoiser, self.ema.denoiser):
                denoiser.network.compile()  # in place: the names of the weights stay
        data = getattr(self.trainer, "datamodule", None)
        check_validation_examples(self.trainer)
        if stage == "fit":
            check_classes_of_data(data, self.num_classes)
        if data is not None and stage in ("fit", "validate"):
            self.objective.prepare(lambda: examples_of(data, "train").augmented())

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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to write a checkpoint after a step that was left out."""
        self.guard.read(self)
        super().on_save_checkpoint(checkpoint)

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
        seed_device(hash_seed(self.seed, self.global_step, number, self.global_rank), self.device)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Mean loss; times and noise depend on (seed, step, place in the batch of the step) alone."""
        x0, cond, _ = as_batch(batch)
        require_floating(x0)
        first = self.micro_batches.add(len(x0))
        generator = module_generator(self, self.seed, first, len(x0), x0.device)
        if self.condition_dropout:
            drop = rand(len(x0), generator, x0.device) < self.condition_dropout
            cond = drop_conditions(cond, drop)
        x0 = dequantize(self.trainer, x0, generator) if self.dequantize else x0
        loss = self.objective(self.denoiser, x0, generator=generator, **cond)
        mean: Tensor = loss.value.mean()
        self.step_log.start(self, loss, mean, self.denoiser.process)
        return self.guard.loss(self, loss.value, mean, loss.t)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Keep a step that is not finite away from the weights."""
        self.guard.before_step(self, optimizer)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, update the average, and log: here, since later hooks come after the checkpoint is written."""
        super().optimizer_step(*args, **kwargs)
        self.ema.update(self.denoiser)
        if is_reported(self.trainer, self.global_step + 1):
            self.guard.read(self)
            if self.guard.norms and self.guard.norms[-1][0] == self.global_step:
                self.step_log.add("train/gradient_norm", self.guard.norms[-1][1])
        self.step_log.write(self)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Loss of the averaged denoiser at times and noise fixed by (seed, index of the example)."""
        x0, cond, indices = with_indices(batch, batch_idx)
        generator = PhiloxGenerator(self.seed, indices, Stream.VALIDATION)
        x0 = dequantize(self.trainer, x0, generator) if self.dequantize else x0
        self.val_loss.update(self.objective(self.ema.denoiser, x0, generator=generator, **cond).value)
        self.log("val/loss", self.val_loss, prog_bar=True)

    def denoiser_for(self, weights: Weights = "ema") -> Denoiser:
        """The denoiser to sample from and to evaluate, under the module's guidance, in evaluation mode."""
        denoiser = wrap((self.ema.denoiser if weights == "ema" else self.denoiser).eval(), self.guidance)
        check_guidance(denoiser, self.condition_dropout)
        return denoiser

    def predict_step(self, batch: Seeds, batch_idx: int) -> Tensor:
        """The samples that the seeds stand for."""
        return final_state(self.sample(batch.seed, batch.indices.tolist(), batch.cond))

    def sample(
        self,
        seed: int,
        indices: Sequence[int],
        cond: Mapping[str, Tensor] | None = None,
        sampler: Sampler | None = None,
    ) -> Iterator[Tensor]:
        """`generate` with the averaged weights and, by default, the module's own sampler."""
        return generate(self.denoiser_for("ema"), sampler or self.sampler, self.shape, seed, indices, cond)

    @property
    def labels(self) -> range | None:
        """The classes of a class-conditional model: samples are drawn of each in turn."""
        return range(self.num_classes) if self.num_classes else None


def score_module(module: LightningModule) -> ScoreModule:
    """The module itself, for callbacks that only work with a `ScoreModule`.

    Raises:
        ConfigurationError: If it has no `denoiser_for`.
    """
    if not hasattr(module, "denoiser_for"):
        raise ConfigurationError(f"{type(module).__name__}: this callback needs a ScoreModule")
    return cast(ScoreModule, module)
