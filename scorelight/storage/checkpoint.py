"""Checkpoints that are written atomically and verified by a checksum when they are read.

A file is the zip archive that `torch.save` writes, with the SHA-256 checksum of all that precedes it as the
archive's comment: programs that read the archive read it with the comment, too. Only plain data and tensors
are unpickled.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from torch.serialization import MAP_LOCATION
from typing_extensions import Buffer

from scorelight.errors import ConfigurationError
from scorelight.storage.atomic import atomic_write, write_error_message

__all__ = ["CorruptedCheckpointError", "read_checkpoint", "verify", "write_checkpoint"]

_MARK = b"scorelight sha256 "
_HEAD = struct.pack("<H", len(_MARK) + 64) + _MARK  # the end of an archive: length of its comment, comment
_BLOCK = 1 << 20


class CorruptedCheckpointError(ConfigurationError):
    """A file that is not a checkpoint, or not the one that was written."""


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint and replace the file at the path, which is unchanged if that fails.

    Raises:
        ConfigurationError: If it cannot be written, such as for lack of space or of permission.
    """
    try:
        with atomic_write(path) as file:
            torch.save(checkpoint, hashing := _Hashing(file))  # type: ignore[arg-type]
            _append_checksum(file, hashing)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError when the disk is full
        raise ConfigurationError(write_error_message(path, error)) from error


def read_checkpoint(path: Path, map_location: MAP_LOCATION = "cpu", mmap: bool = False) -> dict[str, Any]:
    """Verify and read a checkpoint.

    Raises:
        CorruptedCheckpointError: If its checksum does not match, or it contains more than plain data.
    """
    verify(path)
    try:
        checkpoint = torch.load(path, map_location, weights_only=True, mmap=mmap)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise CorruptedCheckpointError(
            f"{path}: no checkpoint of plain data: {_first_line(error)}"
        ) from error
    if not isinstance(checkpoint, dict):
        raise CorruptedCheckpointError(f"{path}: holds a {type(checkpoint).__name__}, not a checkpoint")
    return checkpoint


def verify(path: Path) -> None:
    """Verify the checksum; for a file without one, the archive's own.

    Nothing is decompressed: `torch.save` does not compress, and what is compressed is refused.

    Raises:
        CorruptedCheckpointError: If it does not match, or if the file is no archive of `torch.save`.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END) - len(_HEAD) - 64
            file.seek(max(size, 0))
            end = file.read()
            signed = end.startswith(_HEAD)
            file.seek(0)
            valid = not signed or _digest(file, size) == end[len(_HEAD) :]
            with zipfile.ZipFile(file) as archive:
                stored = all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
                valid = valid and stored and (signed or (not archive.comment and archive.testzip() is None))
    except OSError as error:
        raise CorruptedCheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, struct.error):
        valid = False
    if not valid:
        raise CorruptedCheckpointError(
            f"{path} is not a checkpoint of scorelight, or is corrupted (checksum mismatch)"
        )


class _Hashing:
    """A file to write to, with the digest of all but the last two bytes, which are the comment's length."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.last = b""

    def write(self, data: Buffer) -> int:
        view = memoryview(data).cast("B")
        tail = self.last + bytes(view[-2:])
        if len(view) > 2:
            self.digest.update(self.last)
            self.digest.update(view[:-2])
            tail = tail[-2:]
        self.digest.update(tail[:-2])
        self.last = tail[-2:]
        return self.file.write(view)

    def flush(self) -> None:
        self.file.flush()


def _append_checksum(file: IO[bytes], hashing: _Hashing) -> None:
    """Replace the empty comment at the end of an archive by the checksum."""
    assert hashing.last == b"\0\0", "torch.save wrote an archive with a comment"
    file.seek(-2, os.SEEK_END)
    file.write(_HEAD + hashing.digest.hexdigest().encode())


def _digest(file: IO[bytes], size: int) -> bytes:
    """SHA-256 of the next `size` bytes, in hexadecimal."""
    digest = hashlib.sha256()
    while size > 0 and (block := file.read(min(size, _BLOCK))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest().encode()


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]
