"""Warnings of numerical problems, and a stop before they reach the weights."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from scorelight.batch import as_batch
from scorelight.errors import ConfigurationError, TrainingDivergedError
from scorelight.processes.noise_levels import largest_distance
from scorelight.training.checks import REMEDY
from scorelight.training.module import ScoreModule, score_module

__all__ = ["NumericsMonitor"]


class NumericsMonitor(Callback):
    """Checks the first batch and every gradient.

    * Images that are not in [−1, 1]: an error before the first step.
    * σ/α at t_max below a third of the largest distance in the batch: a warning, since the data then do not
      reach the prior (Song & Ermon, 2020, Technique 1).
    * A gradient that is NaN or infinite: the run stops, and the step is not taken. (Under 16-mixed the
      gradient scaler skips the step, and training continues.)
    * A gradient with a norm above `factor` times the median of the last 100: a warning, once.

    The norm, before clipping, is logged as ``train/gradient_norm``.

    Args:
        factor: How much larger than usual a gradient may be, above 1.
    """

    def __init__(self, factor: float = 1000.0) -> None:
        if not factor > 1:
            raise ConfigurationError(f"NumericsMonitor: factor={factor}: must be above 1")
        self.factor = factor
        self._norms: list[float] = []
        self._checked = self._warned = False

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Check the first batch."""
        if not self._checked:
            self._checked = True
            check_data(score_module(pl_module), as_batch(batch).x0)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Check the gradient, which is the same on all processes."""
        gradients = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        norm = float(get_total_norm(gradients))
        if not math.isfinite(norm):
            if getattr(trainer.precision_plugin, "scaler", None):
                return  # the gradient scaler skips this step, and lowers its factor
            raise TrainingDivergedError(
                f"the gradient is {norm} at step {trainer.global_step}, though the loss is finite; this step "
                f"was not taken. {REMEDY}"
            )
        score_module(pl_module).step_log.add("train/gradient_norm", norm)
        if not self._warned and len(self._norms) == 100 and norm > self.factor * median(self._norms):
            self._warned = True
            rank_zero_warn(
                f"the gradient's norm is {norm:.3g} at step {trainer.global_step}, more than {self.factor:g} "
                f"times the usual {median(self._norms):.3g}. {REMEDY}"
            )
        self._norms = [*self._norms[-99:], norm]


def check_data(module: ScoreModule, x0: Tensor) -> None:
    """Refuse images outside of [−1, 1]; warn of noise that is too small for the data.

    Raises:
        ConfigurationError: If images are outside of [−1, 1], or a value is not finite.
    """
    low, high = x0.min().item(), x0.max().item()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ConfigurationError(
            f"data: a training batch has values that are NaN or infinite: {low} to {high}"
        )
    if x0.ndim == 4 and max(-low, high) > 1.05:
        raise ConfigurationError(
            f"data: images run from {low:.4g} to {high:.4g}, and [-1, 1] is needed: scale them in the data "
            "module (`scale`), x / 127.5 - 1 for bytes"
        )
    process = module.denoiser.process
    last = process.grid_levels(torch.tensor([process.t_max], dtype=torch.float64))[0]
    noise, distance = last.sigma / last.alpha, largest_distance(x0) if len(x0) > 1 else 0.0
    if noise < distance / 3:
        rank_zero_warn(
            f"model.process: at t_max={process.t_max:g} the noise is {noise:.3g} times the data, and "
            f"examples are up to {distance:.3g} apart: sampling starts from another distribution. Use a "
            "larger sigma_max or beta_max; `scorelight advise` suggests one"
        )
