"""Checkpoints of a run: how they are written, and which are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from scorelight.errors import ConfigurationError
from scorelight.storage.atomic import link_or_copy
from scorelight.storage.checkpoint import read_checkpoint, write_checkpoint
from scorelight.training.lightning_private import count_epoch_on_resume, is_accumulating, validation_due

__all__ = ["RollingCheckpoint", "VerifiedCheckpointIO"]


class VerifiedCheckpointIO(CheckpointIO):
    """How Lightning writes and reads checkpoints here."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """`write_checkpoint`."""
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """`read_checkpoint`; never anything but plain data, whatever `weights_only` says."""
        return read_checkpoint(Path(path), map_location)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove it, if it is there."""
        Path(path).unlink(missing_ok=True)


class RollingCheckpoint(Checkpoint):
    """Keeps ``checkpoints/last.ckpt``, and the one before as ``previous.ckpt``.

    Written every n optimizer steps, at the end, and when the run is stopped by Ctrl-C, SIGTERM or SLURM:
    always between two steps, behind the validation of the step if there is one, behind all that has been
    logged and behind what other callbacks do, whose state is in it. A run that goes on from there is bit for
    bit the one that was never stopped.

    Args:
        every_n_steps: Optimizer steps between two checkpoints.
    """

    def __init__(self, every_n_steps: int = 500) -> None:
        if every_n_steps < 1:
            raise ConfigurationError(f"checkpoint.every_n_steps={every_n_steps}: must be at least 1")
        self.every_n_steps = every_n_steps
        self.last_model_path = ""
        self._saved_at = -1
        self._path: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask for the run folder here, on all ranks: asking is a collective call. Stand behind all others."""
        log_dir = trainer.log_dir
        others: list[Callback] = [c for c in trainer.callbacks if c is not self]  # type: ignore[attr-defined]
        trainer.callbacks = [*others, self]  # type: ignore[attr-defined]
        self._path = Path(log_dir) / "checkpoints" / "last.ckpt" if log_dir else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the pass that begins, if the checkpoint was the last of one."""
        count_epoch_on_resume(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Save every n steps, unless a validation is to come first."""
        if trainer.global_step % self.every_n_steps == 0 and not validation_due(trainer):
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save every n steps."""
        if trainer.state.fn == "fit" and trainer.global_step % self.every_n_steps == 0:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last step."""
        self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save when the run was stopped between two steps; else the last checkpoint stays as it is."""
        if isinstance(exception, SIGTERMException) and trainer.training:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if trainer.global_step == self._saved_at or not self._path or is_accumulating(trainer):
            return
        self._saved_at = trainer.global_step
        for logger in trainer.loggers:
            logger.save()
        if trainer.is_global_zero and self._path.exists():
            link_or_copy(self._path, self._path.with_name("previous.ckpt"))
        trainer.save_checkpoint(self._path, weights_only=False)
        self.last_model_path = str(self._path)
