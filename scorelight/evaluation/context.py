"""The processes that share the work of an evaluation."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import torch
from lightning.fabric import Fabric
from lightning.pytorch import Trainer
from torch import Tensor

from scorelight.data.loaders import shares
from scorelight.errors import ConfigurationError, SolverError

__all__ = ["Collective", "DistributedContext"]

_VISIBLE = 60.0
"""Seconds after which a file must be visible on all machines: network file systems may look that rarely."""

T = TypeVar("T")


class Collective(Protocol):
    """What a trainer's strategy and a Fabric have in common."""

    def barrier(self) -> Any:
        """Wait for all processes."""

    def broadcast(self, obj: Any) -> Any:
        """The object of rank 0, on every rank."""


class DistributedContext(NamedTuple):
    """The processes that share the work: rank r of W takes the indices r, r + W, ..., without padding.

    Results do not depend on how many processes there are.
    """

    rank: int
    world_size: int
    device: torch.device
    collective: Collective
    local_rank: int = 0
    """The number of this process on its machine."""

    @classmethod
    def from_trainer(cls, trainer: Trainer) -> DistributedContext:
        """The processes of a trainer that runs."""
        strategy = trainer.strategy
        rank, size = trainer.global_rank, trainer.world_size
        return cls(rank, size, strategy.root_device, strategy, trainer.local_rank)

    @classmethod
    def from_fabric(cls, fabric: Fabric) -> DistributedContext:
        """The processes of a Fabric that was launched."""
        rank, size = fabric.global_rank, fabric.world_size
        return cls(rank, size, fabric.device, fabric, fabric.local_rank)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints and writes what all have in common."""
        return self.rank == 0

    def shard(self, indices: Tensor, batch_size: int) -> Sequence[Tensor]:
        """This process's part of the indices, in batches."""
        return shares(indices, batch_size, self.rank, self.world_size)

    def share(self, indices: Tensor) -> Tensor:
        """This process's part of the indices."""
        return indices[self.rank :: self.world_size]

    def all_gather(self, value: T) -> list[T]:
        """The value of each rank, in the order of the ranks, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    def agree(self, make: Callable[[], T]) -> T:
        """What this process makes; an error that a user can fix is raised on all processes if on one.

        It is raised when all of them have made theirs.
        """
        made: T | None = None
        error: Exception | None = None
        try:
            made = make()
        except (ConfigurationError, SolverError, OSError) as raised:
            error = raised
        for of_rank in self.all_gather(error):
            if of_rank is not None:
                raise of_rank
        return cast(T, made)

    def broadcast(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, on every rank."""
        value: T = self.collective.broadcast(make() if self.is_main else None)
        return value

    def barrier(self) -> None:
        """Wait for all processes."""
        self.collective.barrier()

    def check_shared(self, folder: Path) -> None:
        """Make sure that a folder is the same one for all processes; it is created.

        Raises:
            ConfigurationError: On all processes, if one of them does not see what the first has written.
        """
        if self.world_size == 1:
            return
        with ExitStack() as mark:

            def make() -> str:
                folder.mkdir(parents=True, exist_ok=True)
                return Path(mark.enter_context(NamedTemporaryFile(dir=folder, prefix=".shared-")).name).name

            name = self.broadcast(make)
            self.agree(lambda: self._see(folder / name))

    def _see(self, file: Path) -> None:
        end = time.monotonic() + _VISIBLE
        while not file.exists():
            if time.monotonic() > end:
                raise ConfigurationError(
                    f"{file.parent}: process {self.rank} on {socket.gethostname()} does not see what the "
                    "first process writes there; with several nodes, --out must be on a file system that "
                    "they share"
                )
            time.sleep(0.1)
            with contextlib.suppress(OSError):
                os.listdir(file.parent)  # has a network file system look again
