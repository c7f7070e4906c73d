"""Archives of arrays."""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import ArrayLike

from scorelight.errors import ConfigurationError
from scorelight.storage.atomic import atomic_write
from scorelight.storage.memory import check_memory

__all__ = ["DamagedArchiveError", "Header", "opened_npz", "read_npz", "write_npz"]


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


_READ_HEADER = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class Header(NamedTuple):
    """What the first bytes of an array say."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def num_bytes(self) -> int:
        """Bytes that the array takes in memory."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_npz(path: Path, arrays: Mapping[str, ArrayLike]) -> None:
    """Write named arrays atomically as an .npz."""
    with atomic_write(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


@contextmanager
def opened_npz(path: Path) -> Iterator[tuple[NpzFile, dict[str, Header]]]:
    """An .npz, and the headers of its arrays by name; none of them is decompressed.

    Raises:
        OSError, ValueError, ...: Whatever numpy raises for a file that it cannot read; also if an array is
            not as large as its header says.
    """
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:  # numpy may leave it open
        yield archive, {name: _header(archive, name) for name in archive.files}


def _header(archive: NpzFile, name: str) -> Header:
    assert archive.zip is not None
    info = next(i for i in archive.zip.infolist() if i.filename in (f"{name}.npy", name))
    with archive.zip.open(info) as file:
        version = np.lib.format.read_magic(file)
        shape, _, dtype = _READ_HEADER[version](file)
        header, size = Header(shape, dtype), info.file_size - file.tell()
    if not dtype.hasobject and header.num_bytes != size:
        raise ValueError(f"{name} of shape {shape} takes {header.num_bytes:,} bytes, and {size:,} are there")
    return header


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
        ConfigurationError: If the arrays take more memory than there is; they are not decompressed.
    """
    try:
        with opened_npz(path) as (archive, headers):
            wanted = [*names, *(name for name in optional if name in headers)] or [*headers]
            check_memory(path, sum(headers[name].num_bytes for name in wanted), "remove it")
            return {name: archive[name] for name in wanted}
    except ConfigurationError:
        raise
    except _ERRORS as error:
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise DamagedArchiveError(f"{path}: not an .npz of plain arrays, or damaged: {reason}") from error
