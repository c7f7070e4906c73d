"""Warnings of numerical problems."""

from __future__ import annotations

import math
from collections import deque
from itertools import takewhile
from statistics import median
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from scorelight.batch import as_batch
from scorelight.errors import ConfigurationError
from scorelight.processes.noise_levels import largest_distance
from scorelight.training.divergence import REMEDY
from scorelight.training.trained import TrainedModule, trained_module

__all__ = ["NumericsMonitor"]


class NumericsMonitor(Callback):
    """Checks the first batch and the size of every gradient.

    * Images that are not in [−1, 1]: an error before the first step.
    * σ/α at t_max below a third of the largest distance in the batch: a warning, since the data then do not
      reach the prior (Song & Ermon, 2020, Technique 1).
    * A gradient with a norm above `factor` times the median of the last 100: a warning, once, at the next
      step that is logged.

    Args:
        factor: How much larger than usual a gradient may be, above 1.
    """

    def __init__(self, factor: float = 1000.0) -> None:
        if not factor > 1:
            raise ConfigurationError(f"NumericsMonitor: factor={factor}: must be above 1")
        self.factor = factor
        self._norms: deque[float] = deque(maxlen=100)
        self._last_step = -1
        self._checked = self._warned = False

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Check the first batch."""
        if not self._checked:
            self._checked = True
            check_data(trained_module(pl_module), as_batch(batch).x0)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Look at the gradients that the host has asked for since the last time."""
        norms = trained_module(pl_module).guard.norms
        new = takewhile(lambda pair: pair[0] > self._last_step, reversed(norms))
        for step, norm in reversed([*new]):
            self._look_at(step, norm)

    def _look_at(self, step: int, norm: float) -> None:
        """Compare a gradient with those before it."""
        self._last_step = step
        usual = median(self._norms) if len(self._norms) == 100 and not self._warned else math.inf
        if norm > self.factor * usual:
            self._warned = True
            rank_zero_warn(
                f"the gradient's norm is {norm:.3g} at step {step}, more than {self.factor:g} times the "
                f"usual {usual:.3g}. {REMEDY}"
            )
        self._norms.append(norm)


def check_data(module: TrainedModule, x0: Tensor) -> None:
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
    process = module.process
    last = process.grid_levels(torch.tensor([process.t_max], dtype=torch.float64))[0]
    noise, distance = last.sigma / last.alpha, largest_distance(x0) if len(x0) > 1 else 0.0
    if noise < distance / 3:
        rank_zero_warn(
            f"model.process: at t_max={process.t_max:g} the noise is {noise:.3g} times the data, and "
            f"examples are up to {distance:.3g} apart: sampling starts from another distribution. Use a "
            "larger sigma_max or beta_max; `scorelight advise` suggests one"
        )
