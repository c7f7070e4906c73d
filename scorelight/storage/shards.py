"""Rows that many processes write, in small files: what is done survives an interruption."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scorelight.storage.atomic import atomic_write

__all__ = ["ShardStore", "concat_by_index"]


class ShardStore:
    """A folder of rows, each with the index of the example that it belongs to.

    Several processes may write to it, indices that differ. A file is there whole or not at all.

    Args:
        folder: Where; it is made when the first rows are written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def write(self, index: Tensor, **rows: Tensor) -> None:
        """Put rows aside, row j of each array belonging to index[j]."""
        arrays = {name: value.cpu().numpy() for name, value in {"index": index, **rows}.items()}
        with atomic_write(self.folder / f"{int(index.min()):09d}-{int(index.max()):09d}.npz") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def files(self) -> list[Path]:
        """What has been written, in the order of the first index of each file."""
        return sorted(self.folder.glob("*.npz"))

    @staticmethod
    def read(path: Path, names: Sequence[str] = ()) -> dict[str, Tensor]:
        """The rows of a file, all or the named ones, and their index."""
        with open(path, "rb") as raw, np.load(raw) as file:
            return {
                name: torch.from_numpy(file[name]) for name in (("index", *names) if names else file.files)
            }

    def missing(self, num: int) -> Tensor:
        """Indices below `num` without a row, in order; a damaged file is removed, as if never written."""
        absent = torch.ones(num, dtype=torch.bool)
        for path in self.files():
            try:
                index = self.read(path)["index"]
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                warnings.warn(f"{path} is damaged and is made again: {error}", stacklevel=2)
                path.unlink()
            else:
                absent[index[index < num]] = False
        return absent.nonzero()[:, 0]

    def merged(self, num: int | None = None, names: Sequence[str] = ()) -> dict[str, Tensor]:
        """Rows, of all indices or those below `num`, in their order; all arrays or the named ones."""
        files = [path for path in self.files() if num is None or _first(path) < num]
        whole = concat_by_index([self.read(path, names) for path in files])
        return whole if num is None else {k: v[: int((whole["index"] < num).sum())] for k, v in whole.items()}


def _first(path: Path) -> int:
    """The first index in a file of rows, by its name."""
    return int(path.name.partition("-")[0])


def concat_by_index(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One array a name, of rows that come in parts with their ``index``, in the order of that."""
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    order = whole["index"].argsort()
    return {name: value[order] for name, value in whole.items()}
