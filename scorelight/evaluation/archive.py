"""Samples in one file, and a picture of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from scorelight.evaluation.samples import quantize
from scorelight.images import check_drawable, grid, save
from scorelight.storage.npz import Blocks, write_npz
from scorelight.storage.shards import ShardStore

__all__ = ["write_archive"]


def write_archive(store: ShardStore, num: int, folder: Path, seed: int, num_shown: int = 256) -> None:
    """Write the samples of a store as ``samples.npz`` and ``samples.png``, and remove the store.

    The archive holds ``images`` (N, H, W, C), uint8, or for vectors ``samples`` (N, D), float32; ``labels``
    if there are any; and ``seed``. Row i is sample i, whichever process drew it. Memory does not depend on N,
    but for labels and for the points in the picture of vectors.

    Args:
        store: The samples ``x``, of [−1, 1] or as `quantize` returns them, and, if there are any, their
            conditions ``label``.
        num: Number of samples N.
        folder: Where to write.
        seed: Seed of the samples.
        num_shown: Samples in the picture at most.

    Raises:
        ConfigurationError: If a sample is missing, or is NaN or infinite; nothing is written then.
    """
    first, shown = store.read(store.parts(num)[0]), _Shown(num_shown)
    like = _as_stored(torch.zeros_like(first["x"][:1]))
    rows = (_as_stored(shown.seen(rows["x"])) for rows in store.blocks(num, ["x"]))
    arrays: dict[str, ArrayLike | Blocks] = {
        "seed": np.int64(seed),
        "images" if like.ndim == 4 else "samples": Blocks((num, *like.shape[1:]), like.dtype, rows),
    }
    if "label" in first:
        arrays["labels"] = store.merged(num, ["label"])["label"].numpy()
    write_npz(folder / "samples.npz", arrays)
    save(shown.picture(), folder / "samples.png")
    store.clear()


def _as_stored(x: Tensor) -> np.ndarray[Any, Any]:
    """Samples as they are in the archive."""
    check_drawable(x)
    x = quantize(x)
    return (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).numpy()


class _Shown:
    """What the picture shows: the first samples, or the first two coordinates of all vectors."""

    def __init__(self, num: int) -> None:
        self.num = num
        self.parts: list[Tensor] = []

    def seen(self, x: Tensor) -> Tensor:
        """More samples, of which a part is kept."""
        missing = self.num - sum(map(len, self.parts))
        part = x[:, :2] if x.ndim == 2 else x[: max(missing, 0)]
        if len(part):
            self.parts.append(part.clone())
        return x

    def picture(self) -> Tensor:
        """The picture."""
        x = torch.cat(self.parts)
        return grid(x / 127.5 - 1 if x.dtype == torch.uint8 else x)
