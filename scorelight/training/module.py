"""Training and sampling under Lightning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, cast

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import Adam

from scorelight.batch import Seeds
from scorelight.conditions import drop_conditions
from scorelight.data.access import examples_of
from scorelight.denoisers.base import Denoiser, MakeWrapper, wrap
from scorelight.denoisers.network import NetworkDenoiser
from scorelight.errors import ConfigurationError
from scorelight.networks.base import ScoreNetwork
from scorelight.objectives.base import Loss, Objective
from scorelight.parameterizations import Parameterization
from scorelight.processes.base import ForwardProcess
from scorelight.rng import PhiloxGenerator, rand
from scorelight.samplers.base import Sampler, final_state
from scorelight.samplers.generate import generate
from scorelight.storage.component import refuse_none, spec
from scorelight.training.checks import (
    check_compatible,
    check_guidance,
)
from scorelight.training.ema import ExponentialMovingAverage
from scorelight.training.lightning_private import INSTANTIATOR
from scorelight.training.trained import TrainedModule

__all__ = ["ScoreModule", "Weights", "score_module"]

Weights = Literal["ema", "raw"]
"""The average of the weights, or the weights that are trained."""


class ScoreModule(TrainedModule):
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

    kind = "generative model"

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
        super().__init__(optimizer, lr_scheduler, seed)
        refuse_none(ScoreModule.__init__, given, "model")
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

    @property
    def process(self) -> ForwardProcess:  # type: ignore[override]
        """That of the denoiser."""
        return self.denoiser.process

    def configure_callbacks(self) -> list[Callback]:
        """Check the run and its guidance."""
        callbacks = super().configure_callbacks()
        self.denoiser_for("ema")  # so that guidance is refused before the training
        return callbacks

    def setup(self, stage: str) -> None:
        """Compile the network; check the data; let the objective see the training set, if it wants to."""
        super().setup(stage)
        if self.compile_network:
            for denoiser in (self.denoiser, self.ema.denoiser):
                denoiser.network.compile()  # in place: the names of the weights stay
        data = getattr(self.trainer, "datamodule", None)
        if data is not None and stage in ("fit", "validate"):
            self.objective.prepare(lambda: examples_of(data, "train").augmented())

    def training_loss(self, x0: Tensor, cond: Mapping[str, Any], generator: PhiloxGenerator) -> Loss:
        """That of the objective, with conditions dropped at random."""
        if self.condition_dropout:
            drop = rand(len(x0), generator, x0.device) < self.condition_dropout
            cond = drop_conditions(cond, drop)
        x0 = self.spread(x0, generator)
        loss: Loss = self.objective(self.denoiser, x0, generator=generator, **cond)
        return loss

    def validation_loss(self, x0: Tensor, cond: Mapping[str, Any], generator: PhiloxGenerator) -> Tensor:
        """That of the averaged denoiser."""
        x0 = self.spread(x0, generator)
        loss: Loss = self.objective(self.ema.denoiser, x0, generator=generator, **cond)
        return loss.value

    def after_step(self) -> None:
        """Update the average."""
        self.ema.update(self.denoiser)

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


def score_module(module: LightningModule) -> ScoreModule:
    """The module itself, for callbacks that only work with a `ScoreModule`.

    Raises:
        ConfigurationError: If it has no `denoiser_for`.
    """
    if not hasattr(module, "denoiser_for"):
        raise ConfigurationError(f"{type(module).__name__}: this callback needs a ScoreModule")
    return cast(ScoreModule, module)
