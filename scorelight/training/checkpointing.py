"""Checkpoints of a run: how they are written and read, and which are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO, TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from scorelight.errors import ConfigurationError, SamplingError
from scorelight.storage.atomic import link_or_copy
from scorelight.storage.checkpoint import read_checkpoint, write_checkpoint
from scorelight.training.lightning_private import count_epoch_on_resume, is_accumulating, validation_due
from scorelight.training.run_folder import check_run_folder, run_folder

__all__ = ["RollingCheckpoint", "VerifiedCheckpointIO", "use_verified_checkpoints"]


class VerifiedCheckpointIO(CheckpointIO):
    """Lightning's interface to `write_checkpoint` and `read_checkpoint`: atomic, and verified by checksum."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write it atomically, with a checksum."""
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Verify and read it; only plain data is unpickled, whatever `weights_only` is."""
        return read_checkpoint(Path(path), map_location)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove it, if it exists."""
        Path(path).unlink(missing_ok=True)


def use_verified_checkpoints(trainer: Trainer) -> None:
    """Have a trainer write and read checkpoints by `VerifiedCheckpointIO`, unless it was given another way.

    Lightning's own unpickles whatever is in the file that ``Trainer.fit(ckpt_path=...)`` names.
    """
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = VerifiedCheckpointIO()


class RollingCheckpoint(Checkpoint):
    """Keeps ``checkpoints/last.ckpt``, and the checkpoint before it as ``previous.ckpt``.

    Written every n optimizer steps, at the end, and when Ctrl-C, SIGTERM or SLURM stops the run: always
    between two steps, after the validation of the step, if it has one, after everything is logged and after
    all other callbacks, whose state it contains. A run resumed from it equals one without interruption bit
    for bit.

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
        """Move behind all other callbacks; find the run folder."""
        folder = run_folder(trainer) if stage == "fit" else None
        others: list[Callback] = [c for c in trainer.callbacks if c is not self]  # type: ignore[attr-defined]
        trainer.callbacks = [*others, self]  # type: ignore[attr-defined]
        self._path = folder / "checkpoints" / "last.ckpt" if folder else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the epoch that begins, if the checkpoint was written at the end of one."""
        count_epoch_on_resume(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Save every n steps, unless a validation is due first."""
        if self._is_due(trainer) and not validation_due(trainer):
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save every n steps, after the validation."""
        if trainer.state.fn == "fit" and self._is_due(trainer):
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after the last step; micro-batches that were too few for another one are not used."""
        self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save if the run was stopped between two steps; otherwise keep the last checkpoint.

        Samples that are not finite are an error of a callback, which is called between two steps.
        """
        in_fit = trainer.state.fn == "fit" and not trainer.sanity_checking
        between = trainer.training if isinstance(exception, SIGTERMException) else in_fit
        stopped = isinstance(exception, SIGTERMException | SamplingError) and between
        if stopped and not is_accumulating(trainer):
            self._save(trainer)

    def _is_due(self, trainer: Trainer) -> bool:
        return trainer.global_step % self.every_n_steps == 0 and not is_accumulating(trainer)

    def _save(self, trainer: Trainer) -> None:
        if trainer.global_step == self._saved_at or not self._path:
            return
        self._saved_at = trainer.global_step
        check_run_folder(trainer)
        for logger in trainer.loggers:
            logger.save()
        if trainer.is_global_zero and self._path.exists():
            link_or_copy(self._path, self._path.with_name("previous.ckpt"))
        trainer.save_checkpoint(self._path, weights_only=False)
        self.last_model_path = str(self._path)
