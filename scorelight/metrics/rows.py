"""The features of a set of examples, as rows of a matrix that need not be in memory.

Metrics that need the features of every example read some rows at a time, so that the memory that they take
does not depend on the number of examples.
"""

from __future__ import annotations

import errno
import os
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from scorelight.storage.npz import Header, stored_at

__all__ = ["Rows", "SelectedRows", "StoredRows", "blocks"]


class Rows(Protocol):
    """Rows (N, D): a tensor, or `StoredRows`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""

    def __len__(self) -> int:
        """The number of rows N."""

    def __getitem__(self, index: Any) -> Tensor:
        """The rows of a slice, or at positions (a tensor of integers), in memory."""


class StoredRows:
    """Rows in a file, which are read when they are asked for.

    Args:
        file: Descriptor of the file, which is closed when these rows are not needed any more.
        header: Shape (N, D) and type of the numbers.
        start: Where in the file the first number is.
        device: Where rows that are read are put.
    """

    def __init__(self, file: int, header: Header, start: int = 0, device: torch.device | None = None) -> None:
        self.shape = header.shape
        self.dtype = header.dtype
        self.device = device
        self._file = file
        self._start = start
        weakref.finalize(self, os.close, file)

    @classmethod
    def temporary(
        cls, shape: tuple[int, int], device: torch.device | None = None, folder: Path | None = None
    ) -> Self:
        """Rows of zeros, float32, in a file without a name that ends with them.

        Args:
            shape: (N, D).
            device: Where rows that are read are put.
            folder: Where the file lies (default: the folder for temporary files, $TMPDIR).
        """
        file, name = tempfile.mkstemp(prefix=".rows-", dir=folder)
        os.unlink(name)
        header = Header(shape, np.dtype(np.float32))
        os.ftruncate(file, header.num_bytes)
        return cls(file, header, 0, device)

    @classmethod
    def in_archive(cls, path: Path, name: str) -> Self | None:
        """The rows of an array in an .npz, verified by its checksum.

        Returns:
            None if they cannot be read where they are, such as when they are compressed.

        Raises:
            DamagedArchiveError: If the archive cannot be read.
        """
        found = stored_at(path, name)
        if found is None or len(found[0].shape) != 2 or found[0].dtype not in (np.float32, np.float64):
            return None
        return cls(os.open(path, os.O_RDONLY), *found)

    def __len__(self) -> int:
        """The number of rows N."""
        return self.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """The rows of a slice of step 1, or at positions (a tensor of integers)."""
        if isinstance(index, slice):
            first, last, _ = index.indices(len(self))
            rows = np.empty((max(last - first, 0), self.shape[1]), self.dtype)
            self._read(rows, first)
        else:
            rows = np.empty((len(index), self.shape[1]), self.dtype)
            for row, position in zip(rows, index.tolist(), strict=True):
                self._read(row, position)
        read = torch.from_numpy(rows)
        return read.to(self.device) if self.device else read

    def write(self, index: Tensor, rows: Tensor) -> None:
        """Write the rows at the positions `index`, of the type of the file.

        Raises:
            OSError: If there is no room for them.
        """
        for position, row in zip(index.tolist(), rows.detach().cpu().numpy(), strict=True):
            content = np.ascontiguousarray(row, self.dtype).data.cast("B")
            written = os.pwrite(self._file, content, self._start + position * len(content))
            if written < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _read(self, into: np.ndarray[Any, Any], position: int) -> None:
        """Fill an array with the numbers from a row on; a mapped file would count as the process's memory."""
        left = into.data.cast("B") if into.size else memoryview(b"")
        place = self._start + position * self.shape[1] * self.dtype.itemsize
        while left:
            num = os.preadv(self._file, [left], place)
            if not num:
                raise OSError(errno.EIO, "a file with features was cut off")
            left, place = left[num:], place + num


def blocks(rows: Rows, size: int) -> Iterator[Tensor]:
    """All rows in their order, `size` at a time."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


class SelectedRows:
    """Some rows of others, in another order, read when they are asked for.

    Args:
        rows: The others.
        positions: Which of them, in their new order, shape (M,).
    """

    def __init__(self, rows: Rows, positions: Tensor) -> None:
        self.rows = rows
        self.positions = positions
        self.shape = (len(positions), *rows.shape[1:])

    def __len__(self) -> int:
        """The number of rows M."""
        return len(self.positions)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """The rows of a slice, or at positions (a tensor of integers)."""
        return self.rows[self.positions[index]]
