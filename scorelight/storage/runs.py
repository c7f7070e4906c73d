"""The checkpoint of a run folder."""

from __future__ import annotations

import sys
from pathlib import Path

from scorelight.errors import ConfigurationError
from scorelight.storage.checkpoint import CorruptedCheckpointError, verify

__all__ = ["find_checkpoint", "latest_valid"]


def find_checkpoint(path: str | Path) -> Path:
    """The path itself if it is a file; the last valid checkpoint if it is a run folder.

    Raises:
        ConfigurationError: If there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    runs = sorted(path.glob("version_*/checkpoints/last.ckpt"), key=lambda p: p.stat().st_mtime)
    own = path.parent if path.name == "checkpoints" else path
    for folder in (own, *(run.parents[1] for run in reversed(runs))):
        if checkpoint := latest_valid(folder):
            return checkpoint
    what = "has no checkpoint in it" if path.is_dir() else "does not exist"
    raise ConfigurationError(f"{path} {what}: give a .ckpt file or a run folder with checkpoints/last.ckpt")


def latest_valid(run: Path) -> Path | None:
    """The newest valid checkpoint of a run folder, if it has checkpoints; corrupted ones are named on stderr.

    Raises:
        CorruptedCheckpointError: If there are checkpoints, and all are corrupted.
    """
    existing = [
        p for name in ("last", "previous", "best") if (p := run / "checkpoints" / f"{name}.ckpt").is_file()
    ]
    corrupted = []
    for path in existing:
        try:
            verify(path)
        except CorruptedCheckpointError as error:
            corrupted.append(str(error))
            continue
        if corrupted:
            print(f"{'; '.join(corrupted)}; using {path}", file=sys.stderr)
        return path
    if corrupted:
        raise CorruptedCheckpointError(f"{'; '.join(corrupted)}; no valid checkpoint is left in {run}")
    return None
