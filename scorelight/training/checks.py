"""What is refused before a run, and when a loss is not finite."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from scorelight.errors import ConfigurationError, TrainingDivergedError
from scorelight.networks.base import ScoreNetwork
from scorelight.objectives.base import Loss, Objective
from scorelight.processes.base import ForwardProcess
from scorelight.samplers.base import Sampler

__all__ = ["REMEDY", "check_compatible", "check_fit", "require_finite", "require_floating"]

REMEDY = "Try a lower learning rate, --trainer.gradient_clip_val 1 or a larger model.process.t_min"


def check_compatible(
    network: ScoreNetwork,
    process: ForwardProcess,
    objective: Objective,
    sampler: Sampler,
    condition_dropout: float,
) -> None:
    """Refuse components that do not go together.

    Raises:
        ConfigurationError: Naming what does not fit.
    """
    if not 0 <= condition_dropout <= 1:
        raise ConfigurationError(f"condition_dropout={condition_dropout}: a probability, 0 to 1, is needed")
    if condition_dropout and not network.num_classes:
        raise ConfigurationError(
            f"condition_dropout={condition_dropout}: the network has no condition; "
            "set model.network.num_classes, on the command line to data for those of the data"
        )
    objective.check(process, network)
    sampler.levels(process)


def check_fit(trainer: Trainer, dequantize: bool) -> None:
    """Refuse a precision or data that a model cannot be trained with.

    Args:
        trainer: A trainer that has been given the data.
        dequantize: Whether the model dequantises them.

    Raises:
        ConfigurationError: If weights are to be trained in 16 bits, or data without grey levels dequantised.
    """
    stage, data = trainer.state.fn, getattr(trainer, "datamodule", None)
    if stage == "fit" and trainer.precision in ("bf16-true", "16-true"):
        raise ConfigurationError(
            f"trainer.precision={trainer.precision}: weights of 16 bits do not move by the small "
            "steps of their optimizer and average; use bf16-mixed, which keeps them in 32"
        )
    if stage in ("fit", "validate") and dequantize and getattr(data, "num_bins", None) is None:
        raise ConfigurationError(
            f"model.dequantize=true: {type(data).__name__} does not state its number of grey levels "
            "(num_bins); leave it out for data that are not quantised"
        )


def require_floating(x0: Tensor) -> None:
    """Refuse examples that are whole numbers, such as images that nobody has scaled.

    Raises:
        ConfigurationError: If they are no floating-point numbers.
    """
    if not x0.is_floating_point():
        raise ConfigurationError(
            f"a batch of the data has x0 of type {x0.dtype}; give floating-point numbers, images in [-1, 1]"
        )


def require_finite(module: LightningModule, loss: Loss, mean: Tensor) -> Tensor:
    """The mean loss of all ranks.

    Raises:
        TrainingDivergedError: On all ranks alike, before the weights are spoilt, if it is not finite.
    """
    of_all = module.trainer.strategy.reduce(mean.detach().clone(), reduce_op="mean")
    if not torch.isfinite(of_all):
        saved = [getattr(c, "last_model_path", "") for c in module.trainer.checkpoint_callbacks]
        last = next(filter(None, saved), "none yet")
        raise TrainingDivergedError(_divergence(loss, module.global_step, last))
    return of_all


def _divergence(loss: Loss, step: int, checkpoint: str) -> str:
    """What is known about a loss that is not finite."""
    bad = ~torch.isfinite(loss.value.detach())
    t, value = (
        (loss.t[bad], loss.value[bad][0].item()) if bad.any() else (loss.t, "not finite on another rank")
    )
    return (
        f"the loss is {value} at step {step}, for {int(bad.sum())} of {len(bad)} examples with t from "
        f"{t.min().item():.4g} to {t.max().item():.4g}; this step was not taken. "
        f"Last good checkpoint: {checkpoint}. {REMEDY}"
    )
