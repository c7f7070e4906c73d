"""Losses and gradients that are not finite: they never reach the weights, and no step waits for the check."""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from scorelight.errors import TrainingDivergedError

__all__ = ["REMEDY", "DivergenceGuard"]

REMEDY = "Try a lower learning rate, --trainer.gradient_clip_val 1 or a larger model.process.t_min"


class _Losses(NamedTuple):
    """Losses of a micro-batch, and their times if they are known."""

    step: int
    value: Tensor
    t: Tensor | None

    def bad(self) -> Tensor:
        """Which of them are not finite."""
        return ~self.value.isfinite()

    def __str__(self) -> str:
        bad = self.bad()
        text = f"{self.value[bad][0].item()} at step {self.step}, for {int(bad.sum())} of {len(bad)} examples"
        if self.t is None:
            return text
        low, high = (end.item() for end in self.t[bad].aminmax())
        return f"{text} with t from {low:.4g} to {high:.4g}"


class DivergenceGuard:
    """Leaves out every optimizer step from the first one on whose loss or gradient is NaN or infinite.

    The decision is made on the device. A loss that is not finite makes the gradient NaN, and DDP averages
    gradients, so that all processes see it. The optimizer is then told to skip the step, as a gradient scaler
    does, and all later ones: the weights stay as they were. The host asks for the outcome in `read`, at the
    steps that are logged and before a checkpoint is written. For an optimizer that cannot skip, one without
    ``fused: true`` other than `MuonWithAdam`, it asks at every step.

    Args:
        name: What the loss is called in messages.
        remedy: What to try, for messages.
    """

    def __init__(self, name: str = "loss", remedy: str = REMEDY) -> None:
        self.name = name
        self.remedy = remedy
        self.norms: deque[tuple[int, float]] = deque(maxlen=1000)
        """The last steps that the host has asked for, and the gradient's norm at each, before clipping."""
        self._losses: list[_Losses] = []
        self._norms: list[tuple[int, Tensor]] = []
        self._skip: Tensor | None = None
        self._norm: Tensor | None = None

    def loss(self, module: LightningModule, value: Tensor, mean: Tensor, t: Tensor | None = None) -> Tensor:
        """The loss of a micro-batch, with a gradient of NaN if it is not finite itself.

        Args:
            module: The module at a training step.
            value: Loss of each example, shape (B,).
            mean: Their mean.
            t: The times, for messages, shape (B,).
        """
        self._losses.append(_Losses(module.global_step, value.detach(), t))
        return mean * (0 * mean.detach() + 1)

    def before_step(self, module: LightningModule, optimizer: Optimizer) -> None:
        """Take the norm of the gradient, and have the optimizer skip the step if it is not finite.

        Raises:
            TrainingDivergedError: If it is not finite, and the optimizer cannot skip a step.
        """
        gradients = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        self._norm = norm = get_total_norm(gradients)
        self._norms.append((module.global_step, norm))
        if _has_scaler(module):
            return  # it skips steps by itself, and lowers its factor
        if not _can_skip(optimizer):
            self.read(module)
            return
        bad = norm.isfinite().logical_not().to(norm.dtype)
        self._skip = bad if self._skip is None else torch.maximum(self._skip, bad)
        optimizer.found_inf = self._skip  # type: ignore[attr-defined]

    def clip(self, optimizer: Optimizer, largest: float) -> None:
        """Scale the gradient to a norm of `largest` at most, after `before_step` has taken its norm."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        assert self._norm is not None
        clip_grads_with_norm_(parameters, largest, self._norm)

    def read(self, module: LightningModule) -> None:
        """Ask the device for the norms of the steps since the last time.

        Raises:
            TrainingDivergedError: On all processes alike, if a step was left out.
        """
        if not self._norms:
            return
        steps, norms = zip(*self._norms, strict=True)
        losses, self._norms, self._losses = self._losses, [], []
        values = [*zip(steps, torch.stack(norms).tolist(), strict=True)]
        self.norms.extend((step, norm) for step, norm in values if math.isfinite(norm))
        if _has_scaler(module):
            bad = next((loss.step for loss in losses if loss.bad().any()), None)
            if module.trainer.strategy.reduce_boolean_decision(bad is not None, all=False):
                step = steps[-1] if bad is None else bad
                raise TrainingDivergedError(self._message(module, losses, step, math.nan, steps[-1]))
            return
        for step, norm in values:
            if not math.isfinite(norm):
                raise TrainingDivergedError(self._message(module, losses, step, norm, steps[-1]))

    def _message(
        self, module: LightningModule, losses: list[_Losses], step: int, norm: float, last_step: int
    ) -> str:
        """What is known about the step."""
        mine = next((loss for loss in losses if loss.step == step and loss.bad().any()), None)
        on_any = module.trainer.strategy.reduce_boolean_decision(mine is not None, all=False)
        if mine is not None:
            what = f"the {self.name} is {mine}"
        elif on_any:
            what = f"the {self.name} is not finite at step {step} on another rank"
        else:
            what = f"the gradient is {norm} at step {step}, though the {self.name} is finite"
        later = ", nor any after it" if last_step > step else ""
        saved = [getattr(c, "last_model_path", "") for c in module.trainer.checkpoint_callbacks]
        last = next(filter(None, saved), "none yet")
        return f"{what}; this step was not taken{later}. Last good checkpoint: {last}. {self.remedy}"


def _can_skip(optimizer: Optimizer) -> bool:
    """Whether it looks at `found_inf`, on the device: PyTorch's fused optimizers do, and ours."""
    fused = all(group.get("fused") for group in optimizer.param_groups)
    return fused and type(optimizer).__module__.startswith(("torch.optim.", "scorelight."))


def _has_scaler(module: LightningModule) -> bool:
    return getattr(module.trainer.precision_plugin, "scaler", None) is not None
