"""A LightningModule that is rebuilt from its checkpoint, and whose present settings win over those stored."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar, Self

from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from scorelight.errors import ConfigurationError
from scorelight.storage.checkpoint import read_checkpoint
from scorelight.storage.component import spec
from scorelight.storage.specs import arguments_of, build
from scorelight.training.checkpointing import use_verified_checkpoints
from scorelight.training.lightning_private import INSTANTIATOR
from scorelight.training.optimizer_override import build_optimizer, override_optimizer, settings_changed

__all__ = ["ConfiguredModule", "described_settings"]


class ConfiguredModule(LightningModule):
    """The base of modules that store their settings as plain data under ``hyper_parameters``.

    Args:
        optimizer: Optimizer of the parameters.
        lr_scheduler: Learning-rate schedule, stepped after every optimizer step.
    """

    kind: ClassVar[str] = "model"
    """What its checkpoints hold, for messages to those who need something else."""

    def __init__(self, optimizer: OptimizerCallable, lr_scheduler: LRSchedulerCallable | None) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self._settings_changed = False

    def setup(self, stage: str) -> None:
        """Have the trainer read and write verified checkpoints of plain data."""
        use_verified_checkpoints(self.trainer)

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
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **settings: Any,
    ) -> Self:
        """The model of a checkpoint, its settings replaced by those given.

        Args:
            checkpoint_path: The file.
            map_location: Where the module goes, as for `torch.load` (default: the CPU).
            strict: Whether all weights must fit (default: as `strict_loading`).
            weights_only: Has no effect: nothing but plain data and tensors is unpickled.
            **settings: Arguments of the class.

        Raises:
            ConfigurationError: If the file is corrupted, or names a class that it may not name, see `trust`.
        """
        path = Path(checkpoint_path)
        checkpoint = read_checkpoint(path, map_location or "cpu")
        stored = described_settings(cls, checkpoint, path, settings)
        built = {name: build(value) for name, value in stored.items() if name not in settings}
        module = cls(**built, **settings)
        module.configure_model()
        module.on_load_checkpoint(checkpoint)
        state = checkpoint["state_dict"]
        module.load_state_dict(state, strict=module.strict_loading if strict is None else strict)
        device = next((value.device for value in state.values() if isinstance(value, Tensor)), module.device)
        return module.to(device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what kind of model it is, and the data that it was trained on if they can be written down."""
        checkpoint["kind"] = self.kind
        try:
            checkpoint["data"] = spec(getattr(self.trainer, "datamodule", None))
        except TypeError:  # a data module that does not record its arguments
            checkpoint["data"] = None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Notice whether a resumed run has other optimizer settings than the checkpoint."""
        self._settings_changed = settings_changed(self, checkpoint["hyper_parameters"])


def described_settings(
    owner: type[ConfiguredModule], checkpoint: dict[str, Any], source: Path, elsewhere: Collection[str] = ()
) -> dict[str, Any]:
    """The settings under ``hyper_parameters``, as `arguments_of` reads them.

    Args:
        owner: The class that they are settings of.
        checkpoint: The content of the file.
        source: The file.
        elsewhere: Settings that come from elsewhere.

    Raises:
        ConfigurationError: If there are none, or if they describe what may not be built.
    """
    settings, state = checkpoint.get("hyper_parameters"), checkpoint.get("state_dict")
    named = isinstance(state, dict) and all(isinstance(name, str) for name in state)
    if not isinstance(settings, dict) or not named:
        raise ConfigurationError(f"{source} is not a checkpoint of scorelight")
    if isinstance(kind := checkpoint.get("kind"), str) and kind != owner.kind:
        raise ConfigurationError(f"{source} holds a {kind:.40}; a {owner.kind} is needed here")
    entry = {name: settings[name] for name in INSTANTIATOR if name in settings}
    if entry not in ({}, INSTANTIATOR):
        (name, wanted), *_ = INSTANTIATOR.items()
        given = repr(entry[name]) if isinstance(entry[name], str) else type(entry[name]).__name__
        raise ConfigurationError(
            f"{source}: hyper_parameters.{name} is {given:.100}; only {wanted!r} is allowed"
        )
    rest = {name: value for name, value in settings.items() if name not in INSTANTIATOR}
    return arguments_of(owner, rest, "hyper_parameters", source, elsewhere=elsewhere)
