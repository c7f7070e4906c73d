"""State of a model that no step changes."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["keep_constants_local"]


def keep_constants_local(module: nn.Module, model: object) -> None:
    """Have DDP no longer broadcast buffers at every step, if all of them belong to scorelight's classes.

    Those are constants, tables and frequencies, which are the same on all processes from the start. With
    other classes, such as a network with batch normalisation, DDP goes on.

    Args:
        module: The module.
        model: What the trainer calls: the module itself, or DDP around it.
    """
    owners = (type(part).__module__ for part in module.modules() if [*part.buffers(recurse=False)])
    if isinstance(model, DistributedDataParallel) and all(o.startswith("scorelight.") for o in owners):
        model.broadcast_buffers = False
