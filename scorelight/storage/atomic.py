"""Files that are written completely or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from scorelight.errors import chain

__all__ = ["atomic_write", "link_or_copy", "write_error_message"]


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A file to write in the block; it replaces the file at the path when all of it is on the disk.

    Its folder is created. After an error the path is as before, and no temporary file is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def link_or_copy(path: Path, under: Path) -> None:
    """Make a file available under another name as well, replacing the file there."""
    temporary = under.with_name(f".{under.name}.{os.getpid()}.tmp")
    try:
        try:
            os.link(path, temporary)
        except OSError:  # a file system without links
            shutil.copyfile(path, temporary)
        os.replace(temporary, under)
    finally:
        temporary.unlink(missing_ok=True)


def write_error_message(path: str | Path, error: BaseException) -> str:
    """A message about a file that could not be written: which, why, and what to do."""
    cause = next((e for e in chain(error) if isinstance(e, OSError)), None)
    first_line = str(error).strip().partition("\n")[0][:200]
    reason = (cause.strerror or str(cause)) if cause else first_line
    remedy = {
        errno.ENOSPC: "make room on the disk",
        errno.EDQUOT: "make room: the quota is used up",
        errno.EACCES: "check the permissions of its folder, or choose another trainer.default_root_dir",
        errno.EROFS: "the file system is read-only: choose another trainer.default_root_dir",
    }.get(getattr(cause, "errno", None) or 0, "check its folder, or choose another trainer.default_root_dir")
    return f"{path} cannot be written: {reason}; {remedy}. The previous file is unchanged"
