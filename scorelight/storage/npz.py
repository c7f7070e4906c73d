"""Archives of arrays."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scorelight.errors import ConfigurationError
from scorelight.storage.atomic import atomic_write

__all__ = ["DamagedArchiveError", "read_npz", "write_npz"]


class DamagedArchiveError(ConfigurationError):
    """A file that is not an .npz of plain arrays, or is damaged."""


_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    AttributeError,
    MemoryError,  # a damaged header asks for any size
    OverflowError,
    RuntimeError,  # an encrypted archive; NotImplementedError for an unknown compression
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def write_npz(path: Path, arrays: Mapping[str, ArrayLike]) -> None:
    """Write named arrays atomically as an .npz."""
    with atomic_write(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def read_npz(
    path: Path, names: Sequence[str] = (), optional: Sequence[str] = ()
) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of an .npz whose checksums are right; nothing is unpickled.

    Args:
        path: The file.
        names: What to read (default: all arrays).
        optional: What to read as well, if it is there.

    Raises:
        DamagedArchiveError: If it cannot be read, or lacks a name.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            present = [name for name in optional if name in archive.files]
            return {name: archive[name] for name in [*names, *present] or archive.files}
    except _ERRORS as error:
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise DamagedArchiveError(f"{path}: not an .npz of plain arrays, or damaged: {reason}") from error
