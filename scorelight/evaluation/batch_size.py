"""How many examples are computed at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Literal, TypeVar

import torch
from torch import Tensor

from scorelight.errors import ConfigurationError
from scorelight.storage.memory import available_memory, peak_memory

__all__ = ["BatchSize", "Batches"]

BatchSize = int | Literal["auto"]
"""Examples at once on each process; ``auto`` finds what fits and is fast."""

_T = TypeVar("_T")
_SMALLEST = 16
"""The size that ``auto`` starts with."""
_GAIN = 1.05
"""How much faster the double size must be to be kept."""
_SHARE = 0.8
"""Part of the free memory of the host that is used."""


class Batches:
    """Indices in batches of a fixed size, or of a size that is found while they are computed (``auto``).

    The size is doubled from 16 on as long as that makes the work faster by 5 %, and halved when a device has
    no memory for it; what failed is computed again, and no work is only for the search. Of each size two
    batches are computed and the second is timed, since the first includes what is prepared once for a size.
    On a CPU, where nothing fails before the system ends the process, the size is doubled only if twice the
    memory that has been used since the start is free. Results are functions of the index alone: they do not
    depend on the sizes, but for rounding.

    Args:
        indices: This process's indices, shape (N,).
        size: Number of examples in a batch, or ``auto``.
        num_processes: How many processes share the memory of the host.
    """

    def __init__(self, indices: Tensor, size: BatchSize, num_processes: int = 1) -> None:
        self.indices = indices
        self.size = _SMALLEST if size == "auto" else size
        """Examples in the next batch."""
        self.used = 0
        """Examples in the last batch that was not cut short by the end of the indices."""
        self._growing = self._automatic = size == "auto"
        self._free = (available_memory() or math.inf) / num_processes
        self._before = peak_memory()
        self._speeds: dict[int, list[float]] = {}

    def __len__(self) -> int:
        """The number of indices N."""
        return len(self.indices)

    def results(self, work: Callable[[Tensor], _T]) -> Iterator[_T]:
        """The results of the work on each batch, in their order.

        The time that the caller takes for a result counts as time of its batch.

        Args:
            work: Called with the indices of a batch; it may be called again if the memory did not suffice.

        Raises:
            ConfigurationError: If a device has no memory for a batch of a fixed size, or for one example.
        """
        done = 0
        while done < len(self.indices):
            start, index = time.perf_counter(), self.indices[done : done + self.size]
            try:
                result = work(index)
            except torch.OutOfMemoryError as error:
                self._shrink(len(index), error)
                continue
            yield result
            done += len(index)
            if len(index) == self.size or not self.used:
                self.used = len(index)
            if self._growing and len(index) == self.size:
                self._grow(len(index) / (time.perf_counter() - start))

    def _grow(self, speed: float) -> None:
        """Double the size, go back to half of it, or stay."""
        speeds = self._speeds.setdefault(self.size, [])
        speeds.append(speed)
        if len(speeds) < 2:
            return
        half = self._speeds.get(self.size // 2)
        if half and speed < _GAIN * half[-1]:
            self._growing = False
            self.size //= 2
        elif 2 * (peak_memory() - self._before) > _SHARE * self._free:
            self._growing = False
        else:
            self.size *= 2

    def _shrink(self, failed: int, error: torch.OutOfMemoryError) -> None:
        if not self._automatic or failed == 1:
            remedy = "a smaller network or a larger device" if failed == 1 else "a smaller one, or auto"
            reason = str(error).partition(". ")[0]
            raise ConfigurationError(f"batch_size={failed}: out of memory: {reason}; use {remedy}") from error
        self._growing, self.size = False, max(failed // 2, 1)
        torch.cuda.empty_cache()
