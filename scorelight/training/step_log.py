"""The numbers that a training step logs."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from scorelight.objectives.base import Loss
from scorelight.processes.base import ForwardProcess

__all__ = ["StepLog"]


class StepLog:
    """Collects the numbers of one optimizer step and writes them before its checkpoint.

    Lightning writes after the checkpoint: what a step has logged would be missing in a run that is killed
    and resumed from there.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, Any] = {}

    def start(self, module: LightningModule, loss: Loss, mean: Tensor, process: ForwardProcess) -> None:
        """Begin a step; every log_every_n_steps with loss, loss by quarter of the time range, and rate."""
        module.log("train/loss", mean, prog_bar=True, logger=False)
        self._numbers = {}
        every: int = module.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not every or (module.global_step + 1) % every:
            return
        rate = module.trainer.optimizers[0].param_groups[0]["lr"]
        quartiles = _loss_by_quartile(module, loss, process)
        self._numbers = {"train/loss": mean, "train/learning_rate": rate, **quartiles}

    def add(self, name: str, value: float) -> None:
        """Log a number with those of this step, if the step is one that is logged."""
        if self._numbers:
            self._numbers[name] = value

    def write(self, module: LightningModule) -> None:
        """Log the step, numbered from 0."""
        if self._numbers:
            module.log_dict(self._numbers, logger=False)
            numbers = {name: float(value) for name, value in self._numbers.items()}
            for logger in module.trainer.loggers:
                logger.log_metrics(numbers, module.global_step)


def _loss_by_quartile(module: LightningModule, loss: Loss, process: ForwardProcess) -> dict[str, Tensor]:
    """Mean loss of all ranks in each quarter of [t_min, t_max] that has an example."""
    quarter = (4 * (loss.t - process.t_min) / (process.t_max - process.t_min)).long().clamp(0, 3)
    mine = torch.nn.functional.one_hot(quarter, 4).to(loss.value)
    sums = torch.stack([loss.value.detach() @ mine, mine.sum(0)])
    total, count = module.trainer.strategy.reduce(sums, reduce_op="sum")
    return {f"train/loss_t_quartile_{q + 1}": total[q] / count[q] for q in range(4) if count[q]}
