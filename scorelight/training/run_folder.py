"""Run folders: which of them a command resumes.

A run is interrupted if its folder has neither the file ``finished`` nor a process that holds ``.lock``. A
command resumes the newest interrupted run with its configuration, or uses the folder of a run that was
killed before it could write its configuration. The decision depends on files alone, and no process changes
these before all processes have decided: they join the process group in between.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from scorelight.errors import ConfigurationError
from scorelight.storage.atomic import atomic_write
from scorelight.storage.checkpoint import read_checkpoint
from scorelight.storage.runs import latest_valid

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["InterruptedRun", "RunConfigCallback", "RunFolderCallback", "find_interrupted", "mark_finished"]

_FINISHED, _LOCK = "finished", ".lock"


@dataclass(frozen=True, slots=True)
class InterruptedRun:
    """A run that can be resumed."""

    folder: Path
    checkpoint: Path | None
    """The newest valid one; None if the run was interrupted before the first."""
    step: int


def find_interrupted(root: Path, config: str) -> InterruptedRun | None:
    """The newest interrupted run with this configuration.

    Args:
        root: The folder of the run folders ``version_N``.
        config: The configuration, YAML.

    Raises:
        CorruptedCheckpointError: If the run has checkpoints and none of them is valid.
    """
    wanted = _comparable(config)
    numbered = [(int(p.name[8:]), p) for p in root.glob("version_*") if p.name[8:].isdigit()]
    for _, folder in sorted(numbered, reverse=True):
        file = folder / "config.yaml"
        same = _comparable(file.read_text()) == wanted if file.is_file() else _is_blank(folder)
        if not same or (folder / _FINISHED).exists() or _in_use(folder):
            continue
        checkpoint = latest_valid(folder)
        step = read_checkpoint(checkpoint, mmap=True)["global_step"] if checkpoint else 0
        return InterruptedRun(folder, checkpoint, step)
    return None


def mark_finished(folder: Path) -> None:
    """Record that the run has reached its end."""
    (folder / _FINISHED).touch()


class RunFolderCallback(Callback):
    """Locks the run folder during the run, so that no second process writes into it."""

    def __init__(self) -> None:
        self._lock: IO[bytes] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lock the folder; the system unlocks it when the process ends in any way."""
        log_dir = trainer.log_dir
        if stage != "fit" or not log_dir or not trainer.is_global_zero:
            return
        folder = Path(log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / _LOCK).open("wb")
        if not _try_lock(self._lock, shared=False):
            raise ConfigurationError(f"{folder}: another process is training there; wait for it or stop it")
        (folder / _FINISHED).unlink(missing_ok=True)
        for leftover in folder.rglob(".*.tmp"):  # of an `atomic_write` that was killed
            leftover.unlink(missing_ok=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Unlock the folder."""
        self._unlock()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Unlock the folder."""
        self._unlock()

    def _unlock(self) -> None:
        if self._lock:
            self._lock.close()
            self._lock = None


class RunConfigCallback(SaveConfigCallback):
    """Writes ``config.yaml``, every setting, atomically."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write in one process; `trainer.log_dir` is a collective call, so that all processes make it."""
        log_dir = trainer.log_dir
        if trainer.is_global_zero and log_dir:
            with atomic_write(Path(log_dir) / self.config_filename) as file:
                file.write(self.parser.dump(self.config, skip_none=False).encode())


def _comparable(config: str) -> dict[str, Any] | None:
    """The settings by which two configurations are compared; None if it cannot be read."""
    try:
        settings = yaml.safe_load(config)
    except yaml.YAMLError:
        return None
    return {k: v for k, v in settings.items() if k != "resume"} if isinstance(settings, dict) else None


def _is_blank(folder: Path) -> bool:
    """Whether a run was killed there before it had written anything but the header of its log."""
    return all(p.name.startswith(".") or (_is_log(p) and p.stat().st_size < 1000) for p in folder.iterdir())


def _is_log(path: Path) -> bool:
    return path.name.startswith("events.out.tfevents.")


def _in_use(folder: Path) -> bool:
    """Whether a process has locked the folder; several processes can ask at once."""
    try:
        with (folder / _LOCK).open("rb") as file:
            return not _try_lock(file, shared=True)
    except FileNotFoundError:
        return False


def _try_lock(file: IO[bytes], shared: bool) -> bool:
    """Lock the file until it is closed; False if another process has locked it."""
    if fcntl is None or os.name == "nt":
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
