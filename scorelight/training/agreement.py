"""What the processes of a run agree on in every step, without waiting for each other."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed
from lightning.pytorch import Trainer
from torch import Tensor

__all__ = ["Agreed", "StepAgreement"]


_FEW = 64
"""So many processes exchange a number in a few milliseconds: a ring sends 2 (W − 1) messages in turn."""


class Agreed(NamedTuple):
    """What all processes know."""

    stop: bool = False
    """Whether one of them wants to stop."""
    seconds: float = 0.0
    """The time of the one whose clock shows most."""


class StepAgreement:
    """Whether one of the processes wants to stop, and the time: all of them learn it at the same step.

    They exchange two numbers a step on the host's network, so that no device is waited for. Up to 64
    processes learn them at the end of the step. More of them, whose exchange takes longer, do not wait for
    it: they learn them at the end of the next step.
    """

    def __init__(self) -> None:
        self._group: Any = None
        self._pending: tuple[Tensor, Any] | None = None

    def start(self, trainer: Trainer) -> None:
        """Make a group of all processes; they call it together."""
        self._pending = None
        if _is_distributed(trainer) and torch.distributed.get_backend() != "gloo":
            self._group = torch.distributed.new_group(backend="gloo")

    def exchange(self, trainer: Trainer, stop: bool, seconds: float = 0.0) -> Agreed:
        """Call it after every step.

        Args:
            trainer: The trainer.
            stop: Whether this process wants to stop.
            seconds: The time by its clock.

        Returns:
            What they agreed on by this call or, if they are many, by the previous one.
        """
        if not _is_distributed(trainer):
            return Agreed(trainer.strategy.reduce_boolean_decision(stop, all=False), seconds)
        before = self.finish()
        numbers = torch.tensor([stop, seconds], dtype=torch.float64)
        work = torch.distributed.all_reduce(
            numbers, torch.distributed.ReduceOp.MAX, group=self._group, async_op=True
        )
        self._pending = numbers, work
        return self.finish() if trainer.world_size <= _FEW else before

    def finish(self) -> Agreed:
        """Complete the last exchange, and tell its result."""
        if self._pending is None:
            return Agreed()
        (numbers, work), self._pending = self._pending, None
        work.wait()
        stop, seconds = numbers.tolist()
        return Agreed(stop > 0, seconds)


def _is_distributed(trainer: Trainer) -> bool:
    """Whether there are several processes in PyTorch's own group."""
    return trainer.world_size > 1 and torch.distributed.is_available() and torch.distributed.is_initialized()
