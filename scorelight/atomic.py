"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["keep", "whole_file"]


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write in the block; it takes its place, over what is there, when all of it is on the disk.

    Its folder is made. After an error nothing of it is left.
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


def keep(path: Path, under: Path) -> None:
    """Let a file be there under another name as well, in place of what is there under that."""
    temporary = under.with_name(f".{under.name}.{os.getpid()}.tmp")
    try:
        try:
            os.link(path, temporary)
        except OSError:  # a file system without links
            shutil.copyfile(path, temporary)
        os.replace(temporary, under)
    finally:
        temporary.unlink(missing_ok=True)
