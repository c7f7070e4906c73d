"""One process at a time."""

from __future__ import annotations

import errno
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from scorelight.errors import ConfigurationError

__all__ = ["exclusive", "is_busy", "try_lock"]

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def try_lock(file: Path) -> FileLock | None:
    """A lock of the system's on a file, which is created and stays; None if another process has it.

    It ends with the process, however that ends. A file system without locks gives a warning, and no
    protection.
    """
    lock = FileLock(file, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    except (NotImplementedError, OSError) as error:
        if getattr(error, "errno", errno.ENOSYS) not in _NO_LOCKS:
            raise
        warnings.warn(
            f"{file.parent}: its file system has no locks; start no other command that writes there",
            stacklevel=2,
        )
    return lock


@contextmanager
def exclusive(path: Path, wait: bool = False) -> Iterator[None]:
    """A block in which no other process is in a block of the same file or folder; see `try_lock`.

    Args:
        path: The file or folder that is written to; the folder above it is created.
        wait: Whether to wait for the other process, with a message, or to raise an error.

    Raises:
        ConfigurationError: If another process is in such a block, unless `wait` is set.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _lock_file(path)
    lock = try_lock(file)
    if lock is None:
        if not wait:
            raise ConfigurationError(
                f"{path}: another process is writing there; wait until it ends, or write elsewhere"
            )
        print(f"Waiting for another process that is writing to {path}", file=sys.stderr, flush=True)
        lock = FileLock(file, thread_local=False)
        lock.acquire(poll_interval=0.2)
    try:
        yield
    finally:
        lock.release()


def is_busy(path: Path) -> bool:
    """Whether a process is in a block of `exclusive` for the file or folder, whose parent exists."""
    lock = try_lock(_lock_file(path))
    if lock:
        lock.release()
    return lock is None


def _lock_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")
