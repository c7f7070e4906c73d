"""What the processes of a run agree on in every step, without waiting for each other."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
from lightning.pytorch import Trainer
from torch import Tensor

__all__ = ["StopAgreement"]


_FEW = 64
"""So many processes exchange a number in a few milliseconds: a ring sends 2 (W − 1) messages in turn."""


class StopAgreement:
    """Whether one of the processes wants to stop: all of them learn it at the same step.

    They exchange one number a step on the host's network, so that no device is waited for. Up to 64
    processes learn it at the end of the step. More of them, whose exchange takes longer, do not wait for it:
    they learn it at the end of the next step.
    """

    def __init__(self) -> None:
        self._group: Any = None
        self._pending: tuple[Tensor, Any] | None = None

    def start(self, trainer: Trainer) -> None:
        """Make a group of all processes; they call it together."""
        self._pending = None
        if _is_distributed(trainer) and torch.distributed.get_backend() != "gloo":
            self._group = torch.distributed.new_group(backend="gloo")

    def exchange(self, trainer: Trainer, wanted: bool) -> bool:
        """Call it after every step.

        Args:
            trainer: The trainer.
            wanted: Whether this process wants to stop.

        Returns:
            Whether one of them wanted to at this call, or of many, at the previous one.
        """
        if not _is_distributed(trainer):
            return trainer.strategy.reduce_boolean_decision(wanted, all=False)
        before = self.finish()
        flag = torch.tensor([int(wanted)])
        work = torch.distributed.all_reduce(
            flag, torch.distributed.ReduceOp.MAX, group=self._group, async_op=True
        )
        self._pending = flag, work
        return self.finish() if trainer.world_size <= _FEW else before

    def finish(self) -> bool:
        """Complete the last exchange, and tell its result."""
        if self._pending is None:
            return False
        (flag, work), self._pending = self._pending, None
        work.wait()
        return bool(flag)


def _is_distributed(trainer: Trainer) -> bool:
    """Whether there are several processes in PyTorch's own group."""
    return trainer.world_size > 1 and torch.distributed.is_available() and torch.distributed.is_initialized()
