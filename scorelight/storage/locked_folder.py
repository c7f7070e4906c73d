"""Run folders ``version_N``: each belongs to the process that holds its lock."""

from __future__ import annotations

import os
import re
from itertools import count
from pathlib import Path
from typing import Self

from filelock import FileLock

from scorelight.errors import ConfigurationError
from scorelight.storage.lock import try_lock

__all__ = ["LockedFolder", "numbered_folders"]

_LOCK = ".lock"


def numbered_folders(root: Path) -> dict[int, Path]:
    """The paths ``version_N`` in a folder by their numbers, the largest first."""
    matches = ((re.fullmatch(r"version_([0-9]+)", path.name), path) for path in root.glob("version_*"))
    return dict(sorted(((int(m[1]), path) for m, path in matches if m), reverse=True))


class LockedFolder:
    """A folder that no other process uses: the system unlocks it when this process ends in any way.

    Args:
        path: The folder.
        lock: The lock of a file in it, acquired.
    """

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path = path
        self._lock = lock
        self._identity = self._found()

    @classmethod
    def take(cls, path: Path) -> Self | None:
        """Lock a folder that exists; None if another process has locked it."""
        lock = try_lock(path / _LOCK)
        return None if lock is None else cls(path, lock)

    @classmethod
    def create(cls, root: Path) -> Self:
        """Make and lock the next free ``version_N``, whatever other processes make at the same time."""
        root.mkdir(parents=True, exist_ok=True)
        for number in count(next(iter(numbered_folders(root)), -1) + 1):
            path = root / f"version_{number}"
            try:
                path.mkdir()
            except FileExistsError:
                continue
            if mine := cls.take(path):
                if [p.name for p in path.iterdir()] == [_LOCK]:
                    return mine
                mine.release()  # another process has locked, used and unlocked it before this one
        raise AssertionError("unreachable")

    def check(self) -> None:
        """Make sure that the folder still is the one that was locked.

        Raises:
            ConfigurationError: If it was removed, moved or replaced.
        """
        if self._found() != self._identity:
            raise ConfigurationError(
                f"{self.path}: the run folder was removed or moved during the run, which has stopped; move "
                "it back to resume, or start a new run"
            )

    def release(self) -> None:
        """Unlock it."""
        self._lock.release()

    def _found(self) -> tuple[int, int] | None:
        """Identity of the locked file at the path; None if there is none."""
        try:
            found = os.stat(self.path / _LOCK)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_dev, found.st_ino
