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

__all__ = ["exclusive"]

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextmanager
def exclusive(path: Path, wait: bool = False) -> Iterator[None]:
    """A block in which no other process is in a block of the same file or folder.

    The lock is the system's, on an empty hidden file beside the path, which stays: it ends with the process,
    however that ends. A file system without locks gives a warning, and no protection.

    Args:
        path: The file or folder that is written to; the folder above it is created.
        wait: Whether to wait for the other process, with a message, or to raise an error.

    Raises:
        ConfigurationError: If another process is in such a block, unless `wait` is set.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        _acquire(lock, path, wait)
    except (NotImplementedError, OSError) as error:
        if getattr(error, "errno", errno.ENOSYS) not in _NO_LOCKS:
            raise
        warnings.warn(
            f"{path}: its file system has no locks; start no other command that writes there", stacklevel=3
        )
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, path: Path, wait: bool) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        if not wait:
            raise ConfigurationError(
                f"{path}: another process is writing there; wait until it ends, or write elsewhere"
            ) from error
        print(f"Waiting for another process that is writing to {path}", file=sys.stderr, flush=True)
        lock.acquire(poll_interval=0.2)
