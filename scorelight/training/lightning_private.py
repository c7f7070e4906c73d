"""Everything that scorelight uses of Lightning without it being public, behind named functions.

A private name can change in any release. Each function first checks that the names it needs exist, and says
which version of Lightning is supported if one does not: none of them fails silently.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import lightning
from jsonargparse import Namespace
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torch.optim import Optimizer

__all__ = [
    "INSTANTIATOR",
    "PrivateCLI",
    "allow_gradient_clipping",
    "attached_trainer",
    "cluster_environment",
    "count_epoch_on_resume",
    "is_accumulating",
    "option_strings",
    "skip_sigterm_broadcast",
    "stop_after_step",
    "validation_due",
]

SUPPORTED = "lightning>=2.6.6,<2.7"

INSTANTIATOR = {"_instantiator": "lightning.pytorch.cli.instantiate_module"}
"""In a checkpoint's hyper-parameters: `load_from_checkpoint` then builds the components that they describe."""


def require(owner: Any, name: str) -> Any:
    """The private attribute of an object.

    Raises:
        RuntimeError: If this version of Lightning does not have it.
    """
    if not hasattr(owner, name):
        kind = owner if isinstance(owner, type) else type(owner)
        raise RuntimeError(
            f"lightning {lightning.__version__}: {kind.__name__} has no {name!r}, which scorelight needs; "
            f"install {SUPPORTED}"
        )
    return getattr(owner, name)


def stop_after_step(trainer: Trainer) -> None:
    """Have the trainer raise SIGTERMException before the next step, as if it had received SIGTERM."""
    connector = require(trainer, "_signal_connector")
    require(connector, "received_sigterm")
    connector.received_sigterm = True


def skip_sigterm_broadcast(trainer: Trainer) -> None:
    """Remove Lightning's question to rank 0, at the start of each step, whether to stop.

    Rank 0 has left before it asks if it was the one that received the signal, and the others wait.
    """
    loop = trainer.fit_loop.epoch_loop
    require(loop, "_broadcast_sigterm_tensor")
    loop._broadcast_sigterm_tensor = _skip_broadcast  # type: ignore[method-assign]


def _skip_broadcast() -> None:
    """Do nothing."""


def is_accumulating(trainer: Trainer) -> bool:
    """Whether the batch that is ending was not the last one of an optimizer step."""
    accumulating: bool = require(trainer.fit_loop.epoch_loop, "_should_accumulate")()
    return accumulating


def validation_due(trainer: Trainer) -> bool:
    """Whether the step that is ending will be followed by a validation."""
    fetcher = require(trainer.fit_loop, "_data_fetcher")
    check = require(trainer.fit_loop.epoch_loop, "_should_check_val_fx")
    return fetcher is not None and bool(check(fetcher))


def count_epoch_on_resume(trainer: Trainer) -> None:
    """Count the pass that begins, if the checkpoint was written at the end of one: Lightning 2.6 does not."""
    loop = trainer.fit_loop
    for name in ("restarted_mid_epoch", "epoch_progress"):
        require(loop, name)
    counts: Any = loop.epoch_progress.current, loop.epoch_progress.total
    for count in counts:
        for name in ("processed", "ready", "started"):
            require(count, name)
        if loop.restarted_mid_epoch and count.processed == count.ready:
            count.ready += 1
            count.started += 1


def cluster_environment(trainer: Trainer) -> ClusterEnvironment | None:
    """What started the processes: Lightning itself, torchrun, SLURM, ..."""
    environment: ClusterEnvironment | None = require(
        require(trainer, "_accelerator_connector"), "cluster_environment"
    )
    return environment


def attached_trainer(module: LightningModule) -> Trainer | None:
    """The trainer of a module; None without one, where the public `module.trainer` raises."""
    trainer: Trainer | None = require(module, "_trainer")
    return trainer


def allow_gradient_clipping(optimizer: Optimizer) -> Optimizer:
    """Have gradients divided by the scale of the loss before they are clipped.

    Optimizers such as fused Adam divide by it themselves, after clipping; Lightning refuses to clip for
    these, even under bf16-mixed, which has no such scale. It asks for this attribute of the optimizer.
    """
    require_name("lightning.fabric.plugins.precision.amp", "_optimizer_handles_unscaling")
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    return optimizer


def require_name(module: str, name: str) -> None:
    """Raise unless a module of Lightning defines the private name."""
    require(importlib.import_module(module), name)


class PrivateCLI(LightningCLI):
    """LightningCLI with public names for what a subclass needs of it; a checkpoint does not override flags."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for name in ("_parse_ckpt_path", "_get", "_parser"):
            require(LightningCLI, name)
        super().__init__(*args, **kwargs)

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would let the checkpoint win over flags and YAML, silently."""

    def subcommand_parser(self, subcommand: str) -> LightningArgumentParser:
        """The parser of a subcommand."""
        parser: LightningArgumentParser = require(self, "_subcommand_parsers")[subcommand]
        return parser

    def value_of(self, config: Namespace, key: str) -> Any:
        """The value of a key, in the part of the configuration that belongs to the subcommand."""
        return self._get(config, key)

    def dump(self, subcommand: str) -> str:
        """The configuration of a subcommand, YAML."""
        text: str = self._parser(subcommand).dump(self.config[subcommand], skip_none=False)
        return text


def option_strings(parser: LightningArgumentParser) -> Mapping[str, Any]:
    """All flags of a parser."""
    options: Mapping[str, Any] = require(parser, "_option_string_actions")
    return options
