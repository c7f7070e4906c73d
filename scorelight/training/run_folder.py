"""Run folders: which of them a command goes on with.

A run that was interrupted is one with the same configuration whose folder says neither that it has ended
(``finished``) nor that a process is at it (``.lock``, held by that process). The same command, given again,
goes on with it; a folder in which a run was killed before it could write its configuration is used, too. The
decision depends on files alone, which no process changes before all have decided:
joining the process group comes in between.
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

__all__ = ["Interrupted", "RunConfigCallback", "RunFolderCallback", "find_interrupted", "finish"]

_FINISHED, _LOCK = "finished", ".lock"


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A run that can go on."""

    folder: Path
    checkpoint: Path | None
    """The newest sound one; None if it was interrupted before the first."""
    step: int


def find_interrupted(root: Path, config: str) -> Interrupted | None:
    """The newest interrupted run below a folder with the configuration.

    Args:
        root: Where run folders ``version_N`` are.
        config: The configuration, YAML.

    Raises:
        ConfigurationError: If it has checkpoints and none of them is sound.
    """
    wanted = _compared(config)
    numbered = [(int(p.name[8:]), p) for p in root.glob("version_*") if p.name[8:].isdigit()]
    for _, folder in sorted(numbered, reverse=True):
        file = folder / "config.yaml"
        same = _compared(file.read_text()) == wanted if file.is_file() else _is_blank(folder)
        if not same or (folder / _FINISHED).exists() or _in_use(folder):
            continue
        checkpoint = latest_valid(folder)
        step = read_checkpoint(checkpoint, mmap=True)["global_step"] if checkpoint else 0
        return Interrupted(folder, checkpoint, step)
    return None


def finish(folder: Path) -> None:
    """Note that the run has ended."""
    (folder / _FINISHED).touch()


class RunFolderCallback(Callback):
    """Holds the run folder while the run is on, so that no second process writes into it."""

    def __init__(self) -> None:
        self._lock: IO[bytes] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take hold of it; the system lets go of it when the process ends, however it does."""
        log_dir = trainer.log_dir
        if stage != "fit" or not log_dir or not trainer.is_global_zero:
            return
        folder = Path(log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / _LOCK).open("wb")
        if not _hold(self._lock, shared=False):
            raise ConfigurationError(f"{folder}: another process is training there; wait for it or stop it")
        (folder / _FINISHED).unlink(missing_ok=True)
        for half in folder.rglob(".*.tmp"):  # of `atomic_write`, if a run was killed in there
            half.unlink(missing_ok=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of it."""
        self._let_go()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of it."""
        self._let_go()

    def _let_go(self) -> None:
        if self._lock:
            self._lock.close()
            self._lock = None


class RunConfigCallback(SaveConfigCallback):
    """Writes ``config.yaml``, all that was set, whole or not at all."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """One process writes; all ask where, for asking is a collective call."""
        log_dir = trainer.log_dir
        if trainer.is_global_zero and log_dir:
            with atomic_write(Path(log_dir) / self.config_filename) as file:
                file.write(self.parser.dump(self.config, skip_none=False).encode())


def _compared(config: str) -> Any:
    """What makes two configurations the same; None if it cannot be read."""
    try:
        found = yaml.safe_load(config)
    except yaml.YAMLError:
        return None
    return {k: v for k, v in found.items() if k != "resume"} if isinstance(found, dict) else None


def _is_blank(folder: Path) -> bool:
    """Whether a run was killed in there before it had written anything but the head of its log."""
    return all(p.name.startswith(".") or (_is_log(p) and p.stat().st_size < 1000) for p in folder.iterdir())


def _is_log(path: Path) -> bool:
    return path.name.startswith("events.out.tfevents.")


def _in_use(folder: Path) -> bool:
    """Whether a process holds the folder; several may ask at once."""
    try:
        with (folder / _LOCK).open("rb") as file:
            return not _hold(file, shared=True)
    except FileNotFoundError:
        return False


def _hold(file: IO[bytes], shared: bool) -> bool:
    """Lock the file until it is closed."""
    if fcntl is None or os.name == "nt":
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
