"""Reading a user's files: one message for whatever is wrong with them, and progress of long work."""

from __future__ import annotations

import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from lightning.pytorch.utilities import rank_zero_only
from PIL.Image import DecompressionBombError
from tqdm import tqdm

from scorelight.errors import ConfigurationError

__all__ = ["as_path", "progress", "reading"]

_T = TypeVar("_T")

# What corrupted files raise: found by changing bytes of real files, 120,000 times, with the cases of
# tests/data/test_reading.py. An AttributeError or a NameError is a bug; a MemoryError has its own message.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,  # Pillow on TIFF; a JSON file of another structure
    LookupError,  # Pillow lists it, and struct.error, among what unreadable images raise
    OverflowError,  # a number that no array has as its size
    SyntaxError,  # Pillow on PNG
    AssertionError,  # torchvision on MNIST
    RuntimeError,  # zipfile on encryption and compression flags; torchvision on MNIST; nested JSON
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    tokenize.TokenError,  # numpy on the header of an array
    DecompressionBombError,
)


@contextmanager
def reading(what: object, remedy: str) -> Iterator[None]:
    """A block that reads a file.

    Args:
        what: How the message names the file.
        remedy: What the user can do.

    Raises:
        ConfigurationError: If the file cannot be read, or what is in it cannot be used.
    """
    try:
        yield
    except ConfigurationError:
        raise
    except _UNREADABLE as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ConfigurationError(f"{what}: cannot be read: {reason}; {remedy}") from error


def as_path(key: str, value: str | Path) -> Path:
    """An existing file or folder, `~` expanded.

    Raises:
        ConfigurationError: If it does not exist, or is a pipe, a socket or a device, which never ends.
    """
    path = Path(value).expanduser()
    if not path.exists():
        raise ConfigurationError(f"{key}={value}: no such file or folder")
    if not (path.is_file() or path.is_dir()):
        raise ConfigurationError(f"{key}={value}: neither a file nor a folder; name one of these")
    return path


def progress(items: Iterable[_T], total: int, what: str) -> Iterable[_T]:
    """A progress bar, on the terminal of one process, for work that takes more than about a second."""
    hidden = True if getattr(rank_zero_only, "rank", 0) else None  # None: hidden where there is no terminal
    bar: Iterable[_T] = tqdm(items, desc=what, total=total, leave=False, delay=1, disable=hidden)
    return bar
