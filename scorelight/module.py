"""Training and sampling under Lightning."""

from __future__ import annotations

import inspect
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Adam, Optimizer
from torchmetrics import MeanMetric

from scorelight.batch import Seeds, as_batch, indexed, training_set
from scorelight.checkpoint_io import read_checkpoint
from scorelight.component import Component, refuse_none, spec
from scorelight.denoiser import NetworkDenoiser
from scorelight.dequantization import UniformDequantization
from scorelight.ema import ExponentialMovingAverage
from scorelight.errors import ConfigurationError, TrainingDivergedError
from scorelight.networks.base import ScoreNetwork
from scorelight.objectives.base import Loss, Objective
from scorelight.parameterizations import Parameterization
from scorelight.processes.base import ForwardProcess
from scorelight.samplers.base import Sampler
from scorelight.seeding import Generators, generators, global_seed, mix, rand, randn_like, step_noise
from scorelight.trusted import check_trusted

__all__ = ["ScoreModule"]


class ScoreModule(LightningModule):
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
    ) -> None:
        super().__init__()
        parts = dict(
            network=network,
            process=process,
            parameterization=parameterization,
            objective=objective,
            sampler=sampler,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            ema_decay=ema_decay,
            condition_dropout=condition_dropout,
            seed=global_seed() if seed is None else seed,
            compile_network=compile_network,
            dequantize=dequantize,
        )
        refuse_none(inspect.signature(ScoreModule.__init__), parts, "model")
        hparams = {"_instantiator": "lightning.pytorch.cli.instantiate_module", **spec(parts)}
        self.save_hyperparameters(hparams, logger=False)
        _check(network, process, objective, sampler, condition_dropout)
        self.denoiser = NetworkDenoiser(network, process, parameterization)
        self.ema = ExponentialMovingAverage(self.denoiser, ema_decay)
        self.objective = objective
        self.sampler = sampler
        self.shape = network.shape
        self.num_classes = network.num_classes
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.condition_dropout = condition_dropout
        self.seed: int = hparams["seed"]
        self.compile_network = compile_network
        self.dequantize = dequantize
        self._settings_changed = False
        self._to_log: dict[str, Any] = {}
        self.val_loss = MeanMetric()

    # Training

    def setup(self, stage: str) -> None:
        """Compile the network; let the objective see the training set, if it wants to.

        Raises:
            ConfigurationError: If the data that are to be dequantised have no grey levels, or weights are to
                be trained in 16 bits.
        """
        if stage == "fit" and self.trainer.precision in ("bf16-true", "16-true"):
            raise ConfigurationError(
                f"trainer.precision={self.trainer.precision}: weights of 16 bits do not move by the small "
                "steps of their optimizer and average; use bf16-mixed, which keeps them in 32"
            )
        if self.compile_network:
            for denoiser in (self.denoiser, self.ema.denoiser):
                denoiser.network.compile()  # in place: the names of the weights stay
        data = getattr(self.trainer, "datamodule", None)
        if stage not in ("fit", "validate"):
            return
        if self.dequantize and getattr(data, "num_levels", None) is None:
            raise ConfigurationError(
                f"model.dequantize=true: {type(data).__name__} does not say how many grey levels it has "
                "(num_levels); leave it out for data that are not quantised"
            )
        if data is not None:
            self.objective.prepare(lambda: training_set(data))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Make the network's own randomness (dropout) a function of (seed, step, micro-batch, rank)."""
        torch.manual_seed(mix(self.seed, self.global_step, batch_idx, self.global_rank))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Mean loss of the batch.

        Times and noise are functions of (seed, step, micro-batch, place in the global batch): the same
        examples get the same noise from any number of processes.
        """
        x0, cond, _ = as_batch(batch)
        share = step_noise(self, self.seed, batch_idx, x0.device)
        if self.condition_dropout:
            drop = rand(len(x0), share, x0.device) < self.condition_dropout
            network: ScoreNetwork = self.denoiser.network  # type: ignore[assignment]
            cond = network.drop_condition(cond, drop)
        loss: Loss = self.objective(self.denoiser, self._spread(x0, share), generator=share, **cond)
        mean = loss.value.mean()
        self._log_training(loss, self._checked(loss, mean))
        return mean

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, update the average, and log: here, since later hooks come after the checkpoint is written."""
        super().optimizer_step(*args, **kwargs)
        self.ema.update(self.denoiser)
        self._write_log()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Optimizer of all trainable parameters (a learned process and objective included)."""
        optimizer, scheduler = self._optimizer_and_scheduler()
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _optimizer_and_scheduler(self) -> tuple[Optimizer, Any]:
        parameters = [p for p in self.parameters() if p.requires_grad]
        optimizer = self._built("optimizer", self.optimizer, parameters)
        # Some optimizers divide gradients by the scale of the loss themselves, after clipping: Lightning does
        # not clip for these, even under bf16-mixed, which has no such scale. Have it divide them before.
        optimizer._step_supports_amp_scaling = False
        return optimizer, self._built(
            "lr_scheduler", self.lr_scheduler, optimizer
        ) if self.lr_scheduler else None

    def _built(self, key: str, make: Callable[[Any], Any], of: Any) -> Any:
        """What torch makes of the options; it refuses some of them only now, and does not say their names."""
        try:
            return make(of)
        except (TypeError, ValueError) as error:
            given = self.hparams[key]
            options = ", ".join(f"{k}={v}" for k, v in given.get("init_args", {}).items())
            name = given["class_path"].rpartition(".")[2]
            raise ConfigurationError(f"model.{key}: {name}({options}): {error}") from error

    # Checkpoints

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path, *args: Any, **kwargs: Any) -> Self:  # type: ignore[override]
        """The model of a checkpoint, its settings replaced by those given.

        Raises:
            ConfigurationError: If the file is damaged, or names code that is not trusted, see `trust`.
        """
        path = Path(checkpoint_path)
        check_trusted(read_checkpoint(path, mmap=True).get("hyper_parameters"), path)
        loaded: Self = super().load_from_checkpoint(path, *args, **(kwargs | {"weights_only": True}))
        return loaded

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what data the model was trained on, where that can be written down."""
        data = getattr(self.trainer, "datamodule", None)
        checkpoint["data"] = spec(data) if isinstance(data, Component) else None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Notice that a resumed run has other optimizer settings than the checkpoint."""
        stored = checkpoint["hyper_parameters"]
        kept, given = stored["optimizer"]["class_path"], self.hparams["optimizer"]["class_path"]
        if self._trainer and self.trainer.training and kept != given:
            raise ConfigurationError(
                f"model.optimizer: {given}, but the checkpoint's state is that of {kept}"
            )
        keys = ("optimizer", "lr_scheduler")
        self._settings_changed = any(stored[key] != self.hparams[key] for key in keys)

    def on_train_start(self) -> None:
        """Let changed settings win: rates and options as if given from the start, moments as stored."""
        if not self._settings_changed:
            return
        kept, schedulers = self.trainer.optimizers[0], self.trainer.lr_scheduler_configs
        fresh, scheduler = self._optimizer_and_scheduler()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a schedule without steps of the optimizer, on purpose
            for _ in range(self.global_step if scheduler else 0):
                scheduler.step()
        for group, settings in zip(kept.param_groups, fresh.param_groups, strict=True):
            group.update({k: v for k, v in settings.items() if k != "params"})
        for config in schedulers:
            config.scheduler.load_state_dict(scheduler.state_dict())

    def _checked(self, loss: Loss, mean: Tensor) -> Tensor:
        """The loss of all ranks. Raise on all alike if it is not finite, before the weights are spoilt."""
        of_all = self.trainer.strategy.reduce(mean.detach().clone(), reduce_op="mean")
        if not torch.isfinite(of_all):
            bad = ~torch.isfinite(loss.value.detach())
            saved = [getattr(c, "last_model_path", "") for c in self.trainer.checkpoint_callbacks]
            last = next(filter(None, saved), "none yet")
            raise TrainingDivergedError(_divergence(loss, bad, self.global_step, last))
        return of_all

    def _log_training(self, loss: Loss, mean: Tensor) -> None:
        """Loss and learning rate; the loss in each quarter of [t_min, t_max] every log_every_n_steps."""
        self.log("train/loss", mean, prog_bar=True, logger=False)
        self._to_log = {}
        if (self.global_step + 1) % self.trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        rate = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]
        self._to_log = {"train/loss": mean, "train/learning_rate": rate}
        process = self.denoiser.process
        quarter = (4 * (loss.t - process.t_min) / (process.t_max - process.t_min)).long().clamp(0, 3)
        mine = torch.nn.functional.one_hot(quarter, 4).to(loss.value)
        sums = torch.stack([loss.value.detach() @ mine, mine.sum(0)])
        total, count = self.trainer.strategy.reduce(sums, reduce_op="sum")
        for q in range(4):
            if count[q]:
                self._to_log[f"train/loss_t_quartile_{q + 1}"] = total[q] / count[q]

    def note(self, name: str, value: float) -> None:
        """Log a number with those of this step, if the step is one that is logged."""
        if self._to_log:
            self._to_log[name] = value

    def _write_log(self) -> None:
        """Log the step, numbered from 0. Lightning would do so after the checkpoint: too late if killed."""
        if self._to_log:
            self.log_dict(self._to_log, logger=False)
            numbers = {name: float(value) for name, value in self._to_log.items()}
            for logger in self.trainer.loggers:
                logger.log_metrics(numbers, self.global_step)

    def _spread(self, x0: Tensor, generator: Generators) -> Tensor:
        """The data whose density is learned."""
        if not self.dequantize:
            return x0
        spacing = 2 / (self.trainer.datamodule.num_levels - 1)  # type: ignore[attr-defined]
        return UniformDequantization().draw(x0, spacing, generator)[0]

    # Validation and sampling, on the averaged weights

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Loss of the averaged denoiser at times and noise fixed by (seed, index of the example)."""
        x0, cond, indices = indexed(batch, batch_idx)
        noise = generators(self.seed, indices.tolist())  # type: ignore[union-attr]
        loss: Loss = self.objective(self.ema.denoiser, self._spread(x0, noise), generator=noise, **cond)
        self.val_loss.update(loss.value)
        self.log("val/loss", self.val_loss, prog_bar=True)

    def predict_step(self, batch: Seeds, batch_idx: int) -> Tensor:
        """The samples that the seeds stand for."""
        return deque(self.sample(batch.seed, batch.indices.tolist(), batch.cond), maxlen=1).pop()

    def classes_in_turn(self, indices: Tensor) -> dict[str, Tensor]:
        """Conditions of samples of a class-conditional model: sample i is of class i mod `num_classes`."""
        return {"label": (indices % self.num_classes).to(self.device)} if self.num_classes else {}

    @torch.no_grad()
    def sample(
        self,
        seed: int,
        indices: Sequence[int],
        cond: Mapping[str, Tensor] | None = None,
        sampler: Sampler | None = None,
    ) -> Iterator[Tensor]:
        """Yield the states of the sampler, by default its own; the last are samples, (len(indices), *shape).

        Sample i is a function of (seed, i): the same for any batch size and any number of processes.
        """
        noise_of = generators(seed, indices)
        noise = randn_like(torch.empty(len(indices), *self.shape), noise_of).to(self.device)
        chosen = sampler or self.sampler
        yield from chosen.states(self.ema.denoiser, noise, generator=noise_of, **(cond or {}))


def _check(
    network: ScoreNetwork,
    process: ForwardProcess,
    objective: Objective,
    sampler: Sampler,
    condition_dropout: float,
) -> None:
    """Refuse parts that do not go together."""
    if not 0 <= condition_dropout <= 1:
        raise ConfigurationError(f"condition_dropout={condition_dropout}: a probability, 0 to 1, is needed")
    if condition_dropout and not network.num_classes:
        raise ConfigurationError(
            f"condition_dropout={condition_dropout}: the network has no condition; "
            "set model.network.num_classes"
        )
    objective.check(process, network)
    sampler.levels(process)


def _divergence(loss: Loss, bad: Tensor, step: int, checkpoint: str) -> str:
    """What is known about a loss that is not finite."""
    t, value = (
        (loss.t[bad], loss.value[bad][0].item()) if bad.any() else (loss.t, "not finite on another rank")
    )
    return (
        f"the loss is {value} at step {step}, for {int(bad.sum())} of {len(bad)} examples with t from "
        f"{t.min().item():.4g} to {t.max().item():.4g}; this step was not taken. "
        f"Last good checkpoint: {checkpoint}. "
        "Try a lower learning rate, --trainer.gradient_clip_val 1 or a larger model.process.t_min"
    )
