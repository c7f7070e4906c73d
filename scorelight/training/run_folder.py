"""Run folders: one for each run, whatever the logger, and which of them a command resumes.

A run is interrupted if its folder has neither the file ``finished`` nor a process that has locked it. The
main process decides: a command resumes the newest interrupted run with its configuration, or uses the folder
of a run that was killed before it could write its configuration, and otherwise gets the next free
``version_N``. The folder is locked before it is used, so that commands can be started at the same time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info

from scorelight.errors import ConfigurationError
from scorelight.storage.atomic import atomic_write, write_error_message
from scorelight.storage.checkpoint import read_checkpoint
from scorelight.storage.locked_folder import LockedFolder, numbered_folders
from scorelight.storage.runs import latest_valid
from scorelight.training.lightning_private import resume_from

__all__ = ["RunConfigCallback", "RunFolderCallback", "check_run_folder", "run_folder"]

_FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class RunStart:
    """Where a run begins, as the main process has decided."""

    folder: Path
    resumed: bool = False
    checkpoint: Path | None = None
    """The newest valid one of a resumed run; None if it was interrupted before the first."""
    step: int = 0


class RunFolderCallback(Callback):
    """Gives a run its folder before any other callback asks for it, and keeps other processes out of it.

    Args:
        root: The folder of the run folders.
        config: The configuration, YAML; the newest interrupted run that has the same is resumed. None: none.
        ckpt_path: A checkpoint to train from. If it lies in a run folder below the root that no process
            uses, the run continues there.
        log: Whether to write TensorBoard logs to the folder.
    """

    def __init__(
        self, root: Path, config: str | None = None, ckpt_path: str | Path | None = None, log: bool = False
    ) -> None:
        self.root = root
        self.config = config
        self.ckpt_path = ckpt_path
        self.log = log
        self.folder: Path | None = None
        self._locked: LockedFolder | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the folder in the main process; tell all processes, which are connected by now."""
        if stage != "fit":
            return
        taken: Any = self._take() if trainer.is_global_zero else None
        start: RunStart = trainer.strategy.broadcast(taken)
        self.folder = start.folder
        if start.resumed:
            rank_zero_info(f"Resuming {start.folder} from step {start.step}")
        if start.checkpoint:
            resume_from(trainer, start.checkpoint)
        if self.log:
            purge = start.step if start.resumed else None
            trainer.logger = TensorBoardLogger(self.root, "", start.folder.name, purge_step=purge)
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(start.folder / "checkpoints")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record that the run has reached its end."""
        if self._locked:
            (self._locked.path / _FINISHED).touch()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Unlock the folder."""
        self._unlock()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Unlock the folder."""
        self._unlock()

    def check(self) -> None:
        """Make sure that the folder is still there.

        Raises:
            ConfigurationError: If it was removed or moved.
        """
        if self._locked:
            self._locked.check()

    def _take(self) -> RunStart:
        try:
            self._locked, start = _locked_run(self.root, self.config, self.ckpt_path)
            (start.folder / _FINISHED).unlink(missing_ok=True)
            for leftover in start.folder.rglob(".*.tmp"):  # of an `atomic_write` that was killed
                leftover.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigurationError(write_error_message(self.root, error)) from error
        return start

    def _unlock(self) -> None:
        if self._locked:
            self._locked.release()
            self._locked = None


class RunConfigCallback(SaveConfigCallback):
    """Writes ``config.yaml``, every setting, atomically."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write in one process."""
        folder = run_folder(trainer)
        if trainer.is_global_zero and folder:
            with atomic_write(folder / self.config_filename) as file:
                file.write(self.parser.dump(self.config, skip_none=False).encode())


def run_folder(trainer: Trainer) -> Path | None:
    """The folder of the run that a trainer is in, the same on all processes, which all have to ask.

    That of the `RunFolderCallback`. A trainer without one, from Python, has the folder of its TensorBoard or
    CSV logger, or without a logger its default_root_dir; other loggers may have one folder for all runs, and
    under these it gets a `RunFolderCallback`. None if nothing is to be written.
    """
    state: Any = trainer
    if state.fast_dev_run:
        return None
    if (callback := _callback(trainer)) is None:
        log_dir, first = trainer.log_dir, next(iter(trainer.loggers), None)
        if log_dir is None or first is None or isinstance(first, TensorBoardLogger | CSVLogger):
            return Path(log_dir) if log_dir else None
        callback = RunFolderCallback(Path(log_dir))
        state.callbacks = [callback, *state.callbacks]
        callback.setup(trainer, trainer.lightning_module, "fit")
    return callback.folder


def check_run_folder(trainer: Trainer) -> None:
    """Make sure, before something is written to the run folder, that it is still there.

    Raises:
        ConfigurationError: If it was removed or moved.
    """
    if callback := _callback(trainer):
        callback.check()


def _callback(trainer: Trainer) -> RunFolderCallback | None:
    state: Any = trainer
    return next((c for c in state.callbacks if isinstance(c, RunFolderCallback)), None)


def _locked_run(
    root: Path, config: str | None, ckpt_path: str | Path | None
) -> tuple[LockedFolder, RunStart]:
    """The folder to use, locked."""
    if config is not None and (found := _interrupted(root, config)):
        return found
    if ckpt_path:
        run = Path(ckpt_path).resolve().parents[1]
        below = run.parent == root.resolve() and run.name in {p.name for p in numbered_folders(root).values()}
        if below and (locked := LockedFolder.take(root / run.name)):
            return locked, RunStart(locked.path)
    locked = LockedFolder.create(root)
    return locked, RunStart(locked.path)


def _interrupted(root: Path, config: str) -> tuple[LockedFolder, RunStart] | None:
    """The newest interrupted run with this configuration, locked.

    Raises:
        CorruptedCheckpointError: If the run has checkpoints and none of them is valid.
    """
    wanted = _comparable(config)
    for folder in numbered_folders(root).values():
        if not _can_resume(folder, wanted) or not (locked := LockedFolder.take(folder)):
            continue
        if not _can_resume(folder, wanted):  # another process has locked, used and unlocked it before
            locked.release()
            continue
        checkpoint = latest_valid(folder)
        step = read_checkpoint(checkpoint, mmap=True)["global_step"] if checkpoint else 0
        return locked, RunStart(folder, resumed=True, checkpoint=checkpoint, step=step)
    return None


def _can_resume(folder: Path, wanted: dict[str, Any] | None) -> bool:
    """Whether the run in a folder has not finished, and has these settings or was killed without any."""
    if not folder.is_dir() or (folder / _FINISHED).exists():
        return False
    file = folder / "config.yaml"
    return _comparable(file.read_text()) == wanted if file.is_file() else _is_blank(folder)


def _comparable(config: str) -> dict[str, Any] | None:
    """The settings by which two configurations are compared; None if it cannot be read."""
    try:
        settings = yaml.safe_load(config)
    except yaml.YAMLError:
        return None
    ignored = ("resume", "dry_run")
    return {k: v for k, v in settings.items() if k not in ignored} if isinstance(settings, dict) else None


def _is_blank(folder: Path) -> bool:
    """Whether a run was killed there before it had written anything but the header of its log."""
    return all(p.name.startswith(".") or (_is_log(p) and p.stat().st_size < 1000) for p in folder.iterdir())


def _is_log(path: Path) -> bool:
    return path.name.startswith("events.out.tfevents.")
