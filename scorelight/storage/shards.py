"""Shards: rows that several processes write in small files, which survive an interruption."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scorelight.errors import ConfigurationError
from scorelight.storage.lock import exclusive
from scorelight.storage.npz import DamagedArchiveError, read_npz, write_npz

__all__ = ["ShardPart", "ShardStore", "concat_by_index"]


class ShardPart(NamedTuple):
    """Rows of one file."""

    path: Path
    rows: Tensor
    """Their positions in the file."""
    first: int
    """Their smallest index."""


class ShardStore:
    """A folder of rows, each with the index of its example.

    Several processes may write to it, each its own indices: those of one command, which has the folder for
    itself by `owned`. Files are written atomically. A row counts once: where files overlap, the first one
    that has it counts.

    Args:
        folder: The folder, which is created when the first rows are written.
        key: What the rows depend on, in every file; files with another key are left alone, with a warning.
    """

    def __init__(self, folder: str | Path, key: str = "") -> None:
        self.folder = Path(folder)
        self.key = key

    @contextmanager
    def owned(self, wait: bool = False) -> Iterator[None]:
        """A block in which no other command writes to the folder; see `exclusive`."""
        with exclusive(self.folder, wait):
            yield

    def write(self, index: Tensor, **rows: Tensor) -> None:
        """Write a shard; row j of each array belongs to index[j]."""
        arrays = {name: value.cpu().numpy() for name, value in {"index": index, **rows}.items()}
        path = self.folder / f"{int(index.min()):09d}-{int(index.max()):09d}.npz"
        write_npz(path, {"key": np.str_(self.key), **arrays})

    def clear(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def files(self) -> list[Path]:
        """The files, in the order of their first index."""
        return sorted(self.folder.glob("*.npz"))

    def missing(self, num: int) -> Tensor:
        """Indices below `num` without a row, in order; a damaged file is removed."""
        absent = torch.ones(num, dtype=torch.bool)
        for path in self.files():
            try:
                index = self._index(path, complete=True)
            except DamagedArchiveError as error:
                warnings.warn(f"{path} is corrupted and will be written again: {error}", stacklevel=2)
                path.unlink()
            else:
                absent[index[index < num]] = False
        return absent.nonzero()[:, 0]

    def parts(self, num: int, complete: bool = True) -> list[ShardPart]:
        """Where the rows 0, ..., num − 1 are, each once.

        Args:
            num: Number of rows.
            complete: Whether all of them must be there.

        Raises:
            ConfigurationError: If one is missing, or a file is damaged.
        """
        absent, parts = torch.ones(num, dtype=torch.bool), []
        for path in self.files():
            index = self._index(path)
            rows = (index < num).nonzero()[:, 0]
            rows = rows[absent[index[rows]]]
            absent[index[rows]] = False
            if len(rows):
                parts.append(ShardPart(path, rows, int(index[rows].min())))
        if complete and absent.any():
            raise ConfigurationError(
                f"{self.folder}: {int(absent.sum())} of {num} rows are missing: were files removed? Rerun "
                "the command, which computes what is missing"
            )
        return parts

    def read(self, part: ShardPart, names: Sequence[str] = ()) -> dict[str, Tensor]:
        """Rows of a file with their index; all arrays or the named ones.

        Raises:
            DamagedArchiveError: If the file is damaged.
        """
        arrays = read_npz(part.path, ("index", *names) if names else ())
        arrays.pop("key", None)
        return {name: torch.from_numpy(array)[part.rows] for name, array in arrays.items()}

    def merged(self, num: int, names: Sequence[str] = ()) -> dict[str, Tensor]:
        """The rows 0, ..., num − 1 in their order; all arrays or the named ones.

        Raises:
            ConfigurationError: If one is missing, or a file is damaged or has rows of another shape.
        """
        return concat_by_index([*self.blocks(num, names)])

    def blocks(self, num: int, names: Sequence[str] = ()) -> Iterator[dict[str, Tensor]]:
        """The rows 0, ..., num − 1 in their order, some at a time: as `merged`, with few in memory.

        There are as many in memory as overlapping files hold: of W processes that have taken the indices r,
        r + W, ... in batches of B, 2 W B.

        Raises:
            ConfigurationError: As `merged`.
        """
        parts = sorted(self.parts(num), key=lambda part: part.first)
        shapes: dict[str, tuple[int, ...]] = {}
        waiting: list[dict[str, Tensor]] = []
        for part, following in zip_longest(parts, parts[1:]):
            waiting.append(self.read(part, names))
            shapes = shapes or _shapes(waiting[0])
            if (found := _shapes(waiting[-1])) != shapes:
                raise ConfigurationError(
                    f"{part.path}: has rows of {found}, and {parts[0].path.name} beside it of {shapes}; "
                    "remove one of them"
                )
            rows = concat_by_index(waiting)
            ready = int(torch.searchsorted(rows["index"], following.first if following else num))
            if ready:
                yield {name: value[:ready] for name, value in rows.items()}
            waiting = [{name: value[ready:] for name, value in rows.items()}]

    def _index(self, path: Path, complete: bool = False) -> Tensor:
        """The indices in a file, none if its key is another one; `complete` reads all arrays to verify them.

        Raises:
            DamagedArchiveError: If it is damaged, or no file of rows.
        """
        arrays = read_npz(path) if complete else read_npz(path, optional=("index", "key"))
        if str(arrays.pop("key", "")) != self.key:
            warnings.warn(f"{path}: holds no rows of this command, and is left alone", stacklevel=3)
            return torch.empty(0, dtype=torch.long)
        index = arrays.get("index", np.empty(()))
        whole = index.ndim == 1 and index.dtype.kind in "iu" and all(index >= 0)
        if not whole or len(np.unique(index)) < len(index):
            raise DamagedArchiveError(f"{path}: its indices are no different numbers from 0 on")
        if any(array.shape[:1] != index.shape for array in arrays.values()):
            raise DamagedArchiveError(f"{path}: its arrays have different numbers of rows")
        return torch.from_numpy(index.astype(np.int64))


def _shapes(rows: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of a row of each array."""
    return {name: tuple(value.shape[1:]) for name, value in rows.items()}


def concat_by_index(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The rows of all parts by name, in the order of their ``index``."""
    rows = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    order = rows["index"].argsort()
    return {name: value[order] for name, value in rows.items()}
