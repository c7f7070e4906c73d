"""The progress bar of a run."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from tqdm import tqdm

from scorelight.training.step_log import is_reported

__all__ = ["StepProgressBar"]


class StepProgressBar(TQDMProgressBar):
    """One bar for the run instead of one for each epoch."""

    def init_train_tqdm(self) -> tqdm:
        """Update at most twice a second: the output may go to a log file."""
        bar = super().init_train_tqdm()
        bar.mininterval = 0.5
        return bar

    def init_validation_tqdm(self) -> tqdm:
        """Show no bar during training: the run's bar shows the validation loss."""
        return tqdm(disable=True) if self.trainer.state.fn == "fit" else super().init_validation_tqdm()

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Count optimizer steps up to max_steps, from the step at which a resumed run starts."""
        bar = self.train_progress_bar
        bar.total = trainer.max_steps if trainer.max_steps > 0 else None
        bar.set_description("training")
        if bar.n < trainer.global_step:
            bar.n = bar.initial = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Show the step, the remaining time, and after the steps that are logged the loss."""
        bar = self.train_progress_bar
        if is_reported(trainer, trainer.global_step):  # to ask for it at every step would be to wait for it
            bar.set_postfix(self.get_metrics(trainer, pl_module), refresh=False)
        bar.update(trainer.global_step - bar.n)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Show losses only, without Lightning's version number."""
        metrics = super().get_metrics(trainer, pl_module)
        return {k: v for k, v in metrics.items() if k != "v_num"}
