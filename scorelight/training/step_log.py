"""The numbers that a training step logs."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from scorelight.objectives.base import Loss
from scorelight.processes.base import ForwardProcess

__all__ = ["StepLog", "is_reported"]


class StepLog:
    """Collects the numbers of one optimizer step and writes them before its checkpoint.

    Lightning writes after the checkpoint: what a step has logged would be missing in a run that is killed
    and resumed from there. In the steps that are not reported the processes exchange nothing.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, Any] = {}

    def start(self, module: LightningModule, loss: Loss, mean: Tensor, process: ForwardProcess) -> None:
        """Begin a step; if it is reported, with the loss, that of each quarter of the times, and the rate."""
        self._numbers = {}
        step, every = module.global_step + 1, module.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not is_reported(module.trainer, step):
            return
        of_all, quartiles = _losses_of_all_ranks(module, loss, mean.detach(), process)
        # on the host: a number of the progress bar is asked for at every step
        module.log("train/loss", torch.tensor(of_all), prog_bar=True, logger=False)
        if every and step % every == 0:
            rate = module.trainer.optimizers[0].param_groups[0]["lr"]
            self._numbers = {"train/loss": of_all, "train/learning_rate": rate, **quartiles}

    def add(self, name: str, value: float) -> None:
        """Log a number with those of this step, if the step is one that is logged."""
        if self._numbers:
            self._numbers[name] = value

    def write(self, module: LightningModule) -> None:
        """Log the step, numbered from 0."""
        if self._numbers:
            # as `log_dict` does, in a tenth of the time
            module.trainer.callback_metrics.update({k: torch.tensor(v) for k, v in self._numbers.items()})
            for logger in module.trainer.loggers:
                logger.log_metrics(dict(self._numbers), module.global_step)


def is_reported(trainer: Trainer, step: int) -> bool:
    """Whether the host asks the device for results of a step, counted from 1: of the first and those logged.

    Without logging it is every 50th.
    """
    every: int = trainer.log_every_n_steps or 50  # type: ignore[attr-defined]
    return step == 1 or step % every == 0


def _losses_of_all_ranks(
    module: LightningModule, loss: Loss, mean: Tensor, process: ForwardProcess
) -> tuple[float, dict[str, float]]:
    """The mean loss, and that of each quarter of [t_min, t_max] that has an example, by one collective."""
    quarter = (4 * (loss.t - process.t_min) / (process.t_max - process.t_min)).long().clamp(0, 3)
    mine = (quarter[:, None] == torch.arange(4, device=quarter.device)).to(loss.value)
    sums = torch.cat([mean[None], loss.value.detach() @ mine, mine.sum(0)])
    of_all, *quarters = module.trainer.strategy.reduce(sums, reduce_op="sum").tolist()
    total, count = quarters[:4], quarters[4:]
    by_quarter = {f"train/loss_t_quartile_{q + 1}": total[q] / count[q] for q in range(4) if count[q]}
    return of_all / module.trainer.world_size, by_quarter
