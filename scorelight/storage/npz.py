"""Archives of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from scorelight.storage.atomic import atomic_write

__all__ = ["write_npz"]


def write_npz(path: Path, arrays: Mapping[str, ArrayLike]) -> None:
    """Write named arrays atomically as an .npz."""
    with atomic_write(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
