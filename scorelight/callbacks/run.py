"""What a run shows and keeps: one progress bar, the last checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.utilities.exceptions import SIGTERMException

from scorelight.atomic import keep
from scorelight.errors import ConfigurationError

__all__ = ["LastCheckpoint", "RunProgressBar", "validates_now"]


class LastCheckpoint(Checkpoint):
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
        """Count the pass that begins, if the checkpoint was the last of one: Lightning 2.6 does not."""
        loop = trainer.fit_loop
        counts: Any = loop.epoch_progress.current, loop.epoch_progress.total
        for count in counts:
            if loop.restarted_mid_epoch and count.processed == count.ready:
                count.ready += 1
                count.started += 1

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Save every n steps, unless a validation is to come first."""
        if trainer.global_step % self.every_n_steps == 0 and not validates_now(trainer):
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
        loop = trainer.fit_loop.epoch_loop
        if trainer.global_step == self._saved_at or not self._path or loop._should_accumulate():
            return
        self._saved_at = trainer.global_step
        for logger in trainer.loggers:
            logger.save()
        if trainer.is_global_zero and self._path.exists():
            keep(self._path, self._path.with_name("previous.ckpt"))
        trainer.save_checkpoint(self._path, weights_only=False)
        self.last_model_path = str(self._path)


def validates_now(trainer: Trainer) -> bool:
    """Whether the step that is ending will be followed by a validation."""
    loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
    return fetcher is not None and loop._should_check_val_fx(fetcher)


class RunProgressBar(TQDMProgressBar):
    """One bar for the whole run instead of one for each pass over the data."""

    def init_train_tqdm(self) -> Tqdm:
        """Twice a second is enough, for a log file above all."""
        bar = super().init_train_tqdm()
        bar.mininterval = 0.5
        return bar

    def init_validation_tqdm(self) -> Tqdm:
        """Nothing during training: the run's own bar shows the validation loss."""
        return Tqdm(disable=True) if self.trainer.state.fn == "fit" else super().init_validation_tqdm()

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Count optimizer steps up to max_steps, from where a resumed run starts."""
        bar = self.train_progress_bar
        bar.total = trainer.max_steps if trainer.max_steps > 0 else None
        bar.set_description("training")
        if bar.n < trainer.global_step:
            bar.n = bar.initial = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Show the step, the loss and the time that is left."""
        bar = self.train_progress_bar
        bar.set_postfix(self.get_metrics(trainer, pl_module), refresh=False)
        bar.update(trainer.global_step - bar.n)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Losses only; Lightning adds a version number."""
        metrics = super().get_metrics(trainer, pl_module)
        return {k: v for k, v in metrics.items() if k != "v_num"}
