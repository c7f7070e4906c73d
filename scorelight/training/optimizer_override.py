"""Optimizer and learning-rate schedule: built from the settings, which override those of a checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule
from torch.optim import Optimizer

from scorelight.errors import ConfigurationError
from scorelight.training.lightning_private import allow_gradient_clipping, attached_trainer

__all__ = ["build_optimizer", "override_optimizer", "settings_changed"]


def build_optimizer(
    module: LightningModule, optimizer: Callable[[Any], Optimizer], lr_scheduler: Callable[[Any], Any] | None
) -> tuple[Optimizer, Any]:
    """The optimizer of all trainable parameters, and its schedule, if there is one."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    built = allow_gradient_clipping(_build(module, "optimizer", optimizer, parameters))
    return built, _build(module, "lr_scheduler", lr_scheduler, built) if lr_scheduler else None


def _build(module: LightningModule, key: str, make: Callable[[Any], Any], argument: Any) -> Any:
    """The object; torch refuses some options only when it is built, and does not name them."""
    try:
        return make(argument)
    except (TypeError, ValueError) as error:
        entry = module.hparams[key]
        options = ", ".join(f"{k}={v}" for k, v in entry.get("init_args", {}).items())
        name = entry["class_path"].rpartition(".")[2]
        raise ConfigurationError(f"model.{key}: {name}({options}): {error}") from error


def settings_changed(module: LightningModule, stored: dict[str, Any]) -> bool:
    """Whether a resumed run has other settings of optimizer or schedule than its checkpoint.

    Raises:
        ConfigurationError: If it has another optimizer: the checkpoint's state does not fit it.
    """
    trainer = attached_trainer(module)
    if trainer is None or not trainer.training:
        return False
    old, new = (settings["optimizer"]["class_path"] for settings in (stored, module.hparams))
    if old != new:
        raise ConfigurationError(f"model.optimizer: {new}, but the checkpoint's state is that of {old}")
    return any(stored[key] != module.hparams[key] for key in ("optimizer", "lr_scheduler"))


def override_optimizer(module: LightningModule, fresh: Optimizer, scheduler: Any) -> None:
    """Let changed settings win: rates and options as if given from the start, moments as stored.

    Args:
        module: The module, resumed from a checkpoint.
        fresh: An optimizer with the new settings.
        scheduler: Its schedule, not stepped yet; None without one.
    """
    resumed, schedulers = module.trainer.optimizers[0], module.trainer.lr_scheduler_configs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the schedule is stepped without its optimizer by design
        for _ in range(module.global_step if scheduler else 0):
            scheduler.step()
    for group, settings in zip(resumed.param_groups, fresh.param_groups, strict=True):
        group.update({k: v for k, v in settings.items() if k != "params"})
    for config in schedulers:
        config.scheduler.load_state_dict(scheduler.state_dict())
