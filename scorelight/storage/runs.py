"""Run folders: which checkpoint to take from one."""

from __future__ import annotations

import sys
from pathlib import Path

from scorelight.errors import ConfigurationError
from scorelight.storage.checkpoint import CorruptedCheckpointError, verify

__all__ = ["find_checkpoint", "latest_valid"]


def find_checkpoint(path: str | Path) -> Path:
    """A checkpoint file as it is; for a run folder its last checkpoint.

    Raises:
        ConfigurationError: If there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    runs = sorted(path.glob("version_*/checkpoints/last.ckpt"), key=lambda p: p.stat().st_mtime)
    own = path.parent if path.name == "checkpoints" else path
    for folder in (own, *(run.parents[1] for run in reversed(runs))):
        if found := latest_valid(folder):
            return found
    what = "has no checkpoint in it" if path.is_dir() else "does not exist"
    raise ConfigurationError(f"{path} {what}: give a .ckpt file or a run folder with checkpoints/last.ckpt")


def latest_valid(run: Path) -> Path | None:
    """The newest checkpoint of a run folder that is what was written; damaged ones are named on stderr.

    Raises:
        ConfigurationError: If there are checkpoints, and all are damaged.
    """
    there = [
        p for name in ("last", "previous", "best") if (p := run / "checkpoints" / f"{name}.ckpt").is_file()
    ]
    damaged = []
    for path in there:
        try:
            verify(path)
        except CorruptedCheckpointError as error:
            damaged.append(str(error))
            continue
        if damaged:
            print(f"{'; '.join(damaged)}; using {path}", file=sys.stderr)
        return path
    if damaged:
        raise CorruptedCheckpointError(f"{'; '.join(damaged)}; no sound checkpoint is left in {run}")
    return None
