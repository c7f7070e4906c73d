"""Archives of arrays."""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import ArrayLike

from scorelight.errors import ConfigurationError
from scorelight.storage.atomic import atomic_write
from scorelight.storage.memory import check_memory

__all__ = [
    "Blocks",
    "DamagedArchiveError",
    "Header",
    "names_in",
    "opened_npz",
    "read_npz",
    "stored_at",
    "write_npz",
]


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


class Blocks(NamedTuple):
    """An array that is written block by block, so that it need not fit into memory."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: Iterable[np.ndarray[Any, Any]]
    """Its rows in order, some at a time."""


def write_npz(path: Path, arrays: Mapping[str, ArrayLike | Blocks]) -> None:
    """Write named arrays atomically as an .npz: byte for byte what `numpy.savez` writes.

    Args:
        path: The file.
        arrays: The arrays by name, in the order in which they are written.

    Raises:
        ValueError: If blocks do not make up the array that they are said to.
    """
    with atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                if isinstance(array, Blocks):
                    _write_blocks(member, array)
                else:
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def _write_blocks(member: IO[bytes], array: Blocks) -> None:
    descr = np.lib.format.dtype_to_descr(array.dtype)
    header = {"descr": descr, "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(member, header)
    rows = 0
    for block in array.blocks:
        if block.shape[1:] != array.shape[1:] or block.dtype != array.dtype:
            raise ValueError(f"a block of {block.dtype} {block.shape} in {array.dtype} {array.shape}")
        rows += len(block)
        member.write(np.ascontiguousarray(block).data)
    if rows != array.shape[0]:
        raise ValueError(f"{rows} rows for an array of {array.shape[0]}")


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


def names_in(path: Path, names: Sequence[str]) -> list[str]:
    """Those of the names that an .npz has.

    Raises:
        DamagedArchiveError: If it cannot be read.
    """
    try:
        with opened_npz(path) as (_, headers):
            return [name for name in names if name in headers]
    except _ERRORS as error:
        raise _damaged(path, error) from error


def stored_at(path: Path, name: str) -> tuple[Header, int] | None:
    """The header of an array that lies uncompressed in an .npz, and where in the file its first byte is.

    Its checksum is verified, some of it in memory at a time.

    Returns:
        None if it is compressed, or not in the order of C.

    Raises:
        DamagedArchiveError: If the archive cannot be read, or lacks the array.
    """
    try:
        with opened_npz(path) as (archive, headers):
            assert archive.zip is not None
            info = archive.zip.getinfo(f"{name}.npy")
            with archive.zip.open(info) as member:
                version = np.lib.format.read_magic(member)
                _, by_columns, _ = _READ_HEADER[version](member)
                length = member.tell()
                while member.read(2**20):
                    pass
            if info.compress_type != zipfile.ZIP_STORED or by_columns:
                return None
            with path.open("rb") as file:
                file.seek(info.header_offset + _LOCAL_NAME)
                name_length, extra_length = struct.unpack("<HH", file.read(4))
            start = info.header_offset + _LOCAL_NAME + 4 + name_length + extra_length
            return headers[name], start + length
    except _ERRORS as error:
        raise _damaged(path, error) from error


_LOCAL_NAME = 26
"""Where the lengths of name and extra field stand in the header before a member of a zip archive."""


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
        raise _damaged(path, error) from error


def _damaged(path: Path, error: BaseException) -> DamagedArchiveError:
    reason = str(error).partition("\n")[0][:200] or type(error).__name__
    return DamagedArchiveError(f"{path}: not an .npz of plain arrays, or damaged: {reason}")
