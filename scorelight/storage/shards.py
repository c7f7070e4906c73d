"""Shards: rows that several processes write in small files, which survive an interruption."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scorelight.storage.npz import write_npz

__all__ = ["ShardStore", "concat_by_index"]


class ShardStore:
    """A folder of rows, each with the index of its example.

    Several processes may write to it, each its own indices. Files are written atomically.

    Args:
        folder: The folder, which is created when the first rows are written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def write(self, index: Tensor, **rows: Tensor) -> None:
        """Write a shard; row j of each array belongs to index[j]."""
        arrays = {name: value.cpu().numpy() for name, value in {"index": index, **rows}.items()}
        write_npz(self.folder / f"{int(index.min()):09d}-{int(index.max()):09d}.npz", arrays)

    def files(self) -> list[Path]:
        """The shards, in the order of their first index."""
        return sorted(self.folder.glob("*.npz"))

    @staticmethod
    def read(path: Path, names: Sequence[str] = ()) -> dict[str, Tensor]:
        """The rows of a shard with their index; all arrays or the named ones."""
        with open(path, "rb") as raw, np.load(raw) as file:
            return {
                name: torch.from_numpy(file[name]) for name in (("index", *names) if names else file.files)
            }

    def missing(self, num: int) -> Tensor:
        """Indices below `num` without a row, in order; a corrupted shard is removed."""
        absent = torch.ones(num, dtype=torch.bool)
        for path in self.files():
            try:
                index = self.read(path)["index"]
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                warnings.warn(f"{path} is corrupted and will be written again: {error}", stacklevel=2)
                path.unlink()
            else:
                absent[index[index < num]] = False
        return absent.nonzero()[:, 0]

    def merged(self, num: int | None = None, names: Sequence[str] = ()) -> dict[str, Tensor]:
        """All rows, or those of indices below `num`, in their order; all arrays or the named ones."""
        files = [path for path in self.files() if num is None or _first_index(path) < num]
        rows = concat_by_index([self.read(path, names) for path in files])
        return rows if num is None else {k: v[: int((rows["index"] < num).sum())] for k, v in rows.items()}


def _first_index(path: Path) -> int:
    """The first index in a shard, by its name."""
    return int(path.name.partition("-")[0])


def concat_by_index(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The rows of all parts by name, in the order of their ``index``."""
    rows = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    order = rows["index"].argsort()
    return {name: value[order] for name, value in rows.items()}
