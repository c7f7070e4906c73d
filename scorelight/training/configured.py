"""A LightningModule that is rebuilt from its checkpoint, and whose present settings win over those stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler

from scorelight.storage.checkpoint import read_checkpoint
from scorelight.storage.component import spec
from scorelight.storage.trust import check_trusted
from scorelight.training.optimizer_override import build_optimizer, override_optimizer, settings_changed

__all__ = ["ConfiguredModule"]


class ConfiguredModule(LightningModule):
    """The base of modules that store their settings as plain data under ``hyper_parameters``.

    Args:
        optimizer: Optimizer of the parameters.
        lr_scheduler: Learning-rate schedule, stepped after every optimizer step.
    """

    def __init__(self, optimizer: OptimizerCallable, lr_scheduler: LRSchedulerCallable | None) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self._settings_changed = False

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Optimizer of all trainable parameters (a learned process and objective included)."""
        optimizer, scheduler = build_optimizer(self, self.optimizer, self.lr_scheduler)
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """Let settings that differ from the checkpoint's win."""
        if self._settings_changed:
            override_optimizer(self, *build_optimizer(self, self.optimizer, self.lr_scheduler))

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path, *args: Any, **kwargs: Any) -> Self:  # type: ignore[override]
        """The model of a checkpoint, its settings replaced by those given.

        Raises:
            ConfigurationError: If the file is corrupted, or names code that is not trusted, see `trust`.
        """
        path = Path(checkpoint_path)
        check_trusted(read_checkpoint(path, mmap=True).get("hyper_parameters"), path)
        loaded: Self = super().load_from_checkpoint(path, *args, **(kwargs | {"weights_only": True}))
        return loaded

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what data the model was trained on, where that can be written down."""
        try:
            checkpoint["data"] = spec(getattr(self.trainer, "datamodule", None))
        except TypeError:  # a data module that does not record its arguments
            checkpoint["data"] = None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Notice whether a resumed run has other optimizer settings than the checkpoint."""
        self._settings_changed = settings_changed(self, checkpoint["hyper_parameters"])
