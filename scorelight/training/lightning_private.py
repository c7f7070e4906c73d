"""Everything private in Lightning that scorelight uses, behind named functions.

A private name can change in any release. Each function checks that the names it needs exist before it uses
them, and otherwise raises an error that names the supported version; none of them fails silently.
``tests/training/test_lightning_private.py`` has a test for each name.
"""

from __future__ import annotations

import importlib
import subprocess
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
from jsonargparse import Namespace
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities import rank_zero_info
from torch.optim import Optimizer

__all__ = [
    "INSTANTIATOR",
    "SUPPORTED",
    "AgreedTimer",
    "PrivateCLI",
    "accumulate_by",
    "accumulate_by_epoch",
    "agree_on_time",
    "allow_gradient_clipping",
    "attached_trainer",
    "child_processes",
    "cluster_environment",
    "count_epoch_on_resume",
    "given_loader",
    "instantiator_entry",
    "is_accumulating",
    "leave_signals_to_others",
    "option_strings",
    "resume_from",
    "skip_sigterm_broadcast",
    "starts_processes_in_python",
    "stop_after_step",
    "validation_due",
]

SUPPORTED = "lightning>=2.6.6,<2.7"


def _require(owner: Any, name: str) -> Any:
    """An attribute of an object, a class or a module of Lightning.

    Raises:
        RuntimeError: If this version of Lightning does not have it.
    """
    if not hasattr(owner, name):
        label = getattr(owner, "__name__", type(owner).__name__)
        raise RuntimeError(
            f"lightning {lightning.__version__}: {label} has no {name!r}, which scorelight needs; "
            f"install {SUPPORTED}"
        )
    return getattr(owner, name)


def instantiator_entry() -> dict[str, str]:
    """The entry of a checkpoint's hyper-parameters that names the function that builds the module.

    Lightning's own `load_from_checkpoint` then builds the components that the hyper-parameters describe, as
    its CLI does. `ConfiguredModule` does not use it: it builds anything.
    """
    _require(importlib.import_module("lightning.pytorch.cli"), "instantiate_module")
    return {"_instantiator": "lightning.pytorch.cli.instantiate_module"}


INSTANTIATOR = instantiator_entry()


def stop_after_step(trainer: Trainer) -> None:
    """Have the trainer raise SIGTERMException before the next step, as if it had received SIGTERM."""
    connector = _require(trainer, "_signal_connector")
    _require(connector, "received_sigterm")
    connector.received_sigterm = True


def skip_sigterm_broadcast(trainer: Trainer) -> None:
    """Remove Lightning's broadcast, before each step, of whether rank 0 has received SIGTERM.

    A rank 0 that has received it leaves before the broadcast, and the other ranks wait for ever.
    """
    loop: Any = trainer.fit_loop.epoch_loop
    _require(loop, "_broadcast_sigterm_tensor")
    loop._broadcast_sigterm_tensor = _do_nothing


class AgreedTimer(Timer):
    """A timer of one of several processes, which shows the time on which they agreed last.

    Lightning's asks rank 0 after every batch and waits for the answer.
    """

    agreed: float | None = None

    @property
    def state_key(self) -> str:
        """That of Lightning's timer: its checkpoints are the same."""
        return Timer.__qualname__

    def own_time(self) -> float:
        """Seconds of training by the clock of this process."""
        return super().time_elapsed()

    def agree(self, seconds: float) -> None:
        """Show this time from now on, unless it lies before the one that is shown."""
        self.agreed = max(seconds, self.agreed or 0.0)

    def time_elapsed(self, stage: str = RunningStage.TRAINING) -> float:
        """Seconds of a stage."""
        if stage == RunningStage.TRAINING and self.agreed is not None:
            return self.agreed
        return super().time_elapsed(stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from the time that a checkpoint has, on which they agree."""
        self.agreed = self.own_time()
        super().on_train_start(trainer, pl_module)

    def _check_time_remaining(self, trainer: Trainer) -> None:
        remaining = self.time_remaining()
        if remaining is not None and remaining <= 0 and not trainer.should_stop:
            trainer.should_stop = True
            seconds = timedelta(seconds=int(self.time_elapsed()))
            rank_zero_info(f"Time limit reached. Elapsed time is {seconds}. Signaling Trainer to stop.")


def agree_on_time(trainer: Trainer) -> list[AgreedTimer]:
    """Turn Lightning's timers of a trainer into `AgreedTimer`s, before a checkpoint is read."""
    _require(Timer, "_check_time_remaining")
    timers: list[Any] = [c for c in trainer.callbacks if type(c) in (Timer, AgreedTimer)]  # type: ignore[attr-defined]
    for timer in timers:
        timer.__class__ = AgreedTimer
    return timers


def is_accumulating(trainer: Trainer) -> bool:
    """Whether the batch that is ending was not the last one of an optimizer step."""
    accumulating: bool = _require(trainer.fit_loop.epoch_loop, "_should_accumulate")()
    return accumulating


def accumulate_by(trainer: Trainer, accumulating: Callable[[], bool], first: Callable[[], bool]) -> None:
    """Replace Lightning's counts of micro-batches, which start again with every epoch.

    Args:
        trainer: A trainer in training.
        accumulating: Whether an optimizer step needs more micro-batches than it has.
        first: Whether the present micro-batch is the first one of a step: gradients are zeroed before it.
    """
    loop: Any = trainer.fit_loop.epoch_loop
    _require(loop, "_should_accumulate")
    make_zero_grad = _require(type(loop.automatic_optimization), "_make_zero_grad_fn")

    def zero_at_first(batch_idx: int, optimizer: Optimizer) -> Any:
        """It divides the index by the number of micro-batches, and zeroes if there is no remainder."""
        return make_zero_grad(loop.automatic_optimization, 0 if first() else 1, optimizer)

    loop._should_accumulate = accumulating
    loop.automatic_optimization._make_zero_grad_fn = zero_at_first


def accumulate_by_epoch(trainer: Trainer) -> None:
    """Undo `accumulate_by`."""
    loop = trainer.fit_loop.epoch_loop
    for owner, name in ((loop, "_should_accumulate"), (loop.automatic_optimization, "_make_zero_grad_fn")):
        if name in vars(owner):
            delattr(owner, name)


def validation_due(trainer: Trainer) -> bool:
    """Whether a validation follows the step that is ending."""
    fetcher = _require(trainer.fit_loop, "_data_fetcher")
    check = _require(trainer.fit_loop.epoch_loop, "_should_check_val_fx")
    return fetcher is not None and bool(check(fetcher))


def count_epoch_on_resume(trainer: Trainer) -> None:
    """Count the epoch that begins when a run is resumed from the last step of the epoch before.

    Without a validation at that step, Lightning 2.6 counts one started epoch too few.
    """
    restarted = _require(trainer.fit_loop, "restarted_mid_epoch")
    progress = _require(trainer.fit_loop, "epoch_progress")
    for count in (progress.current, progress.total):
        for name in ("processed", "ready", "started"):
            _require(count, name)
        if restarted and count.processed == count.ready:
            count.ready += 1
            count.started += 1


def resume_from(trainer: Trainer, checkpoint: Path) -> None:
    """Have a trainer that is being set up resume from a checkpoint, whatever `fit` was given."""
    connector: Any = _require(trainer, "_checkpoint_connector")
    start = _require(type(connector), "resume_start")

    def start_from_checkpoint(_: Any = None, weights_only: bool | None = None) -> None:
        start(connector, checkpoint, weights_only)

    connector.resume_start = start_from_checkpoint


def starts_processes_in_python(trainer: Trainer) -> bool:
    """Whether the processes are forked or spawned from this one, which then is none of them."""
    launchers = importlib.import_module("lightning.pytorch.strategies.launchers.multiprocessing")
    return isinstance(trainer.strategy.launcher, _require(launchers, "_MultiProcessingLauncher"))


def child_processes() -> list[subprocess.Popen[bytes]]:
    """The processes that Lightning has started, which it no longer watches afterwards.

    Lightning kills this process when one of them ends with an error.
    """
    launchers = importlib.import_module("lightning.fabric.strategies.launchers.subprocess_script")
    observer = _require(launchers, "_ChildProcessObserver")
    found: list[subprocess.Popen[bytes]] = []
    for thread in threading.enumerate():
        if isinstance(thread, observer):
            found += _require(thread, "_child_processes")
            vars(thread)["_child_processes"] = []
    return found


def leave_signals_to_others(trainer: Trainer) -> None:
    """Keep the present handlers of signals: Lightning's handler of SIGTERM waits for the other processes.

    Under SLURM, Lightning's have the job requeued.
    """
    connector: Any = _require(trainer, "_signal_connector")
    _require(connector, "register_signal_handlers")
    if not isinstance(cluster_environment(trainer), SLURMEnvironment):
        connector.register_signal_handlers = _do_nothing


def _do_nothing() -> None:
    """Do nothing."""


def cluster_environment(trainer: Trainer) -> ClusterEnvironment | None:
    """What started the processes: Lightning itself, torchrun, SLURM, ..."""
    connector = _require(trainer, "_accelerator_connector")
    environment: ClusterEnvironment | None = _require(connector, "cluster_environment")
    return environment


def given_loader(trainer: Trainer) -> Any:
    """What `Trainer.fit` was given as `train_dataloaders`; None without."""
    source = _require(trainer.fit_loop, "_data_source")
    _require(source, "is_module")
    return None if source.is_module() else source.instance


def attached_trainer(module: LightningModule) -> Trainer | None:
    """The trainer of a module; None if it has none, where the public `module.trainer` raises."""
    trainer: Trainer | None = _require(module, "_trainer")
    return trainer


def allow_gradient_clipping(optimizer: Optimizer) -> Optimizer:
    """Let Lightning clip gradients under bf16-mixed for an optimizer that unscales them itself.

    Fused Adam divides gradients by the scale of the loss after clipping, so Lightning refuses to clip for
    it, even under bf16-mixed, which has no such scale. Lightning looks for this attribute of the optimizer.
    """
    _require(
        importlib.import_module("lightning.fabric.plugins.precision.amp"), "_optimizer_handles_unscaling"
    )
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    return optimizer


class PrivateCLI(LightningCLI):
    """LightningCLI with public names for what a subclass needs; a checkpoint does not override flags."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for name in ("_parse_ckpt_path", "_get", "_parser", "_run_subcommand"):
            _require(LightningCLI, name)
        super().__init__(*args, **kwargs)

    def _parse_ckpt_path(self) -> None:
        """Do nothing: in Lightning the checkpoint overrides flags and YAML here, silently."""

    def _run_subcommand(self, subcommand: str) -> None:
        self.run_subcommand(subcommand)

    def run_subcommand(self, subcommand: str) -> None:
        """Call the method of the trainer, and the methods `before_` and `after_` it."""
        super()._run_subcommand(subcommand)

    def subcommand_parser(self, subcommand: str) -> LightningArgumentParser:
        """The parser of a subcommand, before the arguments are parsed."""
        parser: LightningArgumentParser = _require(self, "_subcommand_parsers")[subcommand]
        return parser

    def value_of(self, config: Namespace, key: str) -> Any:
        """The value of a key in the section of the running subcommand."""
        return self._get(config, key)

    def dump(self, subcommand: str) -> str:
        """The configuration of a subcommand as YAML."""
        text: str = self._parser(subcommand).dump(self.config[subcommand], skip_none=False)
        return text


def option_strings(parser: LightningArgumentParser) -> Mapping[str, Any]:
    """All flags of a parser, with their actions."""
    options: Mapping[str, Any] = _require(parser, "_option_string_actions")
    return options
