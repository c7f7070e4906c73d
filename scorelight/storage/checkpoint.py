"""Checkpoints that are there whole or not at all, and are read only if not a bit of them has changed.

The file is what `torch.save` writes, a zip archive, with the SHA-256 of all that precedes it as the archive's
comment: any program that reads the one reads the other. Nothing but plain data and tensors is unpickled.
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

from scorelight.errors import ConfigurationError
from scorelight.storage.atomic import atomic_write, write_error_message

__all__ = ["CorruptedCheckpointError", "read_checkpoint", "verify", "write_checkpoint"]

_MARK = b"scorelight sha256 "
_HEAD = struct.pack("<H", len(_MARK) + 64) + _MARK  # an archive ends in the length of its comment, and that
_BLOCK = 1 << 20


class CorruptedCheckpointError(ConfigurationError):
    """A checkpoint that is not what was written."""


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint in place of what is there, which stays if that fails.

    Raises:
        ConfigurationError: If it cannot be written, for want of space or of permission.
    """
    try:
        with atomic_write(path) as file:
            torch.save(checkpoint, hashing := _Hashing(file))  # type: ignore[arg-type]
            _sign(file, hashing)
    except (OSError, RuntimeError) as error:  # torch says RuntimeError of a full disk
        raise ConfigurationError(write_error_message(path, error)) from error


def read_checkpoint(path: Path, map_location: Any = "cpu", mmap: bool = False) -> dict[str, Any]:
    """What `write_checkpoint` wrote.

    Raises:
        CorruptedCheckpointError: If the file is not what was written, or has more in it than plain data.
    """
    verify(path)
    try:
        found = torch.load(path, map_location, weights_only=True, mmap=mmap)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise CorruptedCheckpointError(
            f"{path}: no checkpoint of plain data: {_first_line(error)}"
        ) from error
    if not isinstance(found, dict):
        raise CorruptedCheckpointError(f"{path}: holds a {type(found).__name__}, not a checkpoint")
    return found


def verify(path: Path) -> None:
    """Check the digest; of a file without one, the archive's own checksums.

    Raises:
        CorruptedCheckpointError: If they do not agree.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END) - len(_HEAD) - 64
            file.seek(max(size, 0))
            end = file.read()
            if end.startswith(_HEAD):
                file.seek(0)
                sound = _digest(file, size) == end[len(_HEAD) :]
            else:
                with zipfile.ZipFile(file) as archive:
                    sound = not archive.comment and archive.testzip() is None
    except OSError as error:
        raise CorruptedCheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, struct.error):
        sound = False
    if not sound:
        raise CorruptedCheckpointError(
            f"{path} is not a checkpoint of scorelight, or is damaged: it is not what was written"
        )


class _Hashing:
    """A file to write to, which knows the digest of all but the last two bytes: the length of the comment."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.last = b""

    def write(self, data: Any) -> int:
        """Write and digest."""
        view = memoryview(data).cast("B")
        held = self.last + bytes(view[-2:])
        if len(view) > 2:
            self.digest.update(self.last)
            self.digest.update(view[:-2])
            held = held[-2:]
        self.digest.update(held[:-2])
        self.last = held[-2:]
        return self.file.write(view)

    def flush(self) -> None:
        """Pass on."""
        self.file.flush()


def _sign(file: IO[bytes], hashing: _Hashing) -> None:
    """Put the digest behind an archive that ends in an empty comment."""
    assert hashing.last == b"\0\0", "torch.save has written an archive with a comment"
    file.seek(-2, os.SEEK_END)
    file.write(_HEAD + hashing.digest.hexdigest().encode())


def _digest(file: IO[bytes], size: int) -> bytes:
    """SHA-256 of so many bytes, in hexadecimal."""
    digest = hashlib.sha256()
    while size > 0 and (block := file.read(min(size, _BLOCK))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest().encode()


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]
