"""``scorelight fit`` and ``scorelight validate``: LightningCLI with our defaults."""

from __future__ import annotations

import math
import os
import shutil
import sys
from argparse import ArgumentError
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from scorelight.cli.classes import fill_in_classes
from scorelight.cli.construction import construct
from scorelight.cli.dry_run import cost_of_run, report
from scorelight.cli.kinds import KINDS, Kind, kind_of
from scorelight.cli.launcher import check_number
from scorelight.cli.parser_errors import explain, unknown_flag
from scorelight.cli.working_folder import has_checkpoints
from scorelight.errors import ConfigurationError, Stopped
from scorelight.storage.component import Component, refuse_none
from scorelight.storage.runs import find_checkpoint
from scorelight.storage.specs import arguments_of
from scorelight.storage.trust import packages_named
from scorelight.training.checkpointing import RollingCheckpoint, VerifiedCheckpointIO
from scorelight.training.checks import check_seed, check_trainer
from scorelight.training.learning_rate import time_limit
from scorelight.training.lightning_private import (
    PrivateCLI,
    leave_signals_to_others,
    option_strings,
    starts_processes_in_python,
)
from scorelight.training.loading import read_config
from scorelight.training.module import ScoreModule
from scorelight.training.numerics_monitor import NumericsMonitor
from scorelight.training.progress import StepProgressBar
from scorelight.training.run_folder import RunConfigCallback, RunFolderCallback, run_folder
from scorelight.training.shutdown import GracefulShutdown, ImmediateExit
from scorelight.training.trained import TrainedModule

__all__ = ["RunCLI", "command_line", "run"]


class RunCLI(PrivateCLI):
    """The flags of a run: trainer, model, data, checkpoint, and pictures or reports."""

    @property
    def _kind(self) -> Kind:
        return next(kind for kind in KINDS.values() if kind.module is self.model_class)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The methods of the trainer, and their arguments that are not flags."""
        return {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule", "weights_only"},
            "validate": {"model", "dataloaders", "datamodule", "weights_only"},
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Take the network's shape from the data; give the run's own callbacks their own keys."""
        parser.link_arguments("data.shape", "model.network.init_args.shape", apply_on="instantiate")
        parser.add_lightning_class_args(RollingCheckpoint, "checkpoint")
        for key, callback in self._kind.callbacks.items():
            parser.add_lightning_class_args(callback, key)
        parser.add_argument(
            "--module",
            default=self._kind.module.__name__,
            help=f"What is trained: {' or '.join(KINDS)}. It decides on the keys of model.",
        )
        parser.add_argument(
            "--resume",
            type=bool,
            default=True,
            help="Resume the interrupted run of the same configuration, if there is one.",
        )
        parser.add_argument(
            "--dry_run",
            action="store_true",
            help="fit: print what the run would cost, in some seconds, and train and write nothing.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse with the checkpoint's model as the default: flags > YAML > checkpoint > code."""
        assert isinstance(args, list)
        options = option_strings(self.subcommand_parser(args[0]))
        _check_configs_of_runs(args, self._kind)
        try:
            self.config = parser.parse_args(self._with_checkpoint(args))
        except ArgumentError as error:
            if message := unknown_flag(args[1:], options):
                raise ConfigurationError(message) from error
            roots: dict[str, Any] = {"model": self._kind.module, "trainer": Trainer, "data": _others}
            raise ConfigurationError(explain(str(error), roots, options)) from error

        check_seed("seed_everything", self.config[args[0]]["seed_everything"])

    def _with_checkpoint(self, args: list[str]) -> list[str]:
        """Replace the run folder that --ckpt_path names by a file, and take the defaults from it."""
        for i, arg in enumerate(args):
            flag, equals, value = arg.partition("=")
            if flag == "--ckpt_path":
                path = find_checkpoint(value if equals else "".join(args[i + 1 : i + 2]))
                self.subcommand_parser(args[0]).set_defaults(_checkpoint_defaults(path, self._kind.module))
                return [*args[:i], f"--ckpt_path={path}", *args[i + (1 if equals else 2) :]]
        return args

    def before_instantiate_classes(self) -> None:
        """Refuse values that are not options."""
        self.parser.add_instantiator(construct, Component)
        fill_in_classes(self.value_of(self.config, "model"), self.value_of(self.config, "data"))
        self._refuse_schedule_without_class()
        self._refuse_none("trainer", Trainer)
        check_trainer(self.value_of(self.config, "trainer").get)
        self._refuse_none("checkpoint", RollingCheckpoint)
        for key, callback in self._kind.callbacks.items():
            self._refuse_none(key, callback)
        if self.subcommand != "fit":
            self.save_config_callback = None

    def _refuse_schedule_without_class(self) -> None:
        """Refuse {}, which the parser takes for an instance of the annotation, a union of classes."""
        schedule = self.value_of(self.config, "model")["lr_scheduler"]
        if isinstance(schedule, Namespace) and schedule["class_path"] == "typing.Union":
            raise ConfigurationError("model.lr_scheduler: {}: name a class, or leave it out")

    def _refuse_none(self, key: str, owner: type) -> None:
        options = self.value_of(self.config, key)
        if not isinstance(options, Namespace):
            raise ConfigurationError(
                f"{key}: {options!r}: its options are expected, such as {key}.help lists"
            )
        refuse_none(owner.__init__, options.as_dict(), key)  # type: ignore[misc]

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Log to the run folder by default; give a training its folder."""
        config = self.value_of(self.config_init, "trainer")
        if self.subcommand != "fit":
            kwargs["logger"] = False
        elif not config["fast_dev_run"]:
            log = config["logger"] in (None, True)
            kwargs["logger"] = False if log else config["logger"]
            kwargs["callbacks"] = [self._run_folder(log), *_listed(config["callbacks"])]
        if config["enable_progress_bar"] in (None, True):
            self.trainer_defaults["callbacks"].append(StepProgressBar())
        kwargs["plugins"] = [*_listed(config["plugins"]), VerifiedCheckpointIO()]
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (ImportError, TypeError, ValueError) as error:  # a device or a package that is not available
            raise ConfigurationError(f"trainer: {error}") from error
        check_number(trainer.world_size)
        leave_signals_to_others(trainer)
        if starts_processes_in_python(trainer):
            raise ConfigurationError(
                f"trainer.strategy={config['strategy']}: processes that Python forks or spawns cannot share "
                "a run folder; use ddp"
            )
        return trainer

    def _run_folder(self, log: bool) -> RunFolderCallback:
        """What takes the folder: that of an interrupted run, or of --ckpt_path, or a new one."""
        root = self.value_of(self.config, "trainer")["default_root_dir"]  # null: the working folder
        config = self.dump("fit") if self.value_of(self.config, "resume") else None
        ckpt_path = self.value_of(self.config, "ckpt_path")
        return RunFolderCallback(Path(root or "."), config, ckpt_path, log)

    def run_subcommand(self, subcommand: str) -> None:
        """Run, unless the cost of a run is all that is asked for.

        Raises:
            ConfigurationError: If the cost of another command is asked for.
        """
        if not self.value_of(self.config, "dry_run"):
            return super().run_subcommand(subcommand)
        if subcommand != "fit":
            raise ConfigurationError(f"--dry_run: is for fit; leave it out for {subcommand}")
        if not isinstance(self.model, ScoreModule):
            raise ConfigurationError(
                f"--dry_run: is for a generative model; leave it out for a {self._kind.module.kind}"
            )
        self.before_fit()
        cost = cost_of_run(self.model, self.trainer, self.datamodule)
        if self.trainer.is_global_zero:
            print(report(cost, self.model, self.trainer.strategy.root_device))

    def before_fit(self) -> None:
        """Refuse an impossible optimizer before anything is written."""
        self.model.configure_optimizers()

    def after_fit(self) -> None:
        """Print where everything is and what to do next."""
        folder = run_folder(self.trainer)
        if self.trainer.is_global_zero and folder:
            packages = packages_named(self.config["fit"].as_dict())
            print(
                (_SUMMARY + self._kind.use + _LATER).format(
                    run=folder,
                    files=self._kind.files,
                    weights=self._kind.weights,
                    root=self.trainer.default_root_dir,
                    more=_twice_as_long(self.trainer),
                    trust="".join(f" --trust {package}" for package in sorted(packages)),
                    bin="" if shutil.which("scorelight") else _scripts_folder(),
                )
            )


def _checkpoint_defaults(path: Path, owner: type[TrainedModule]) -> dict[str, Any]:
    """The settings of a checkpoint by their keys on the command line."""
    model, data = read_config(path, owner)
    defaults = {"seed_everything": model.pop("seed")}
    return defaults | {f"model.{k}": v for k, v in model.items()} | ({"data": data} if data else {})


def _check_configs_of_runs(args: list[str], kind: Kind) -> None:
    """Check each --config that is in a run folder: a stranger may have written it, as the checkpoint there.

    Raises:
        ConfigurationError: If it names a class that a file may not name.
    """
    for flag, _, value in (arg.partition("=") for arg in args):
        if flag == "--config" and has_checkpoints(Path(value)):
            content = yaml.safe_load(Path(value).read_text())
            sections = {"model": kind.module, "trainer": Trainer, "checkpoint": RollingCheckpoint}
            for key, owner in (sections | kind.callbacks).items():
                arguments_of(owner, content.pop(key, None) or {}, key, value, complete=False)
            arguments_of(_others, content, "configuration", value, complete=False)


def _listed(value: Any) -> list[Any]:
    """A setting that may be one object, several or none."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _others(
    data: LightningDataModule | None = None,
    seed_everything: bool | int | None = None,
    resume: bool = True,
    dry_run: bool = False,
    ckpt_path: str | Path | None = None,
    verbose: bool = True,
    module: str = "ScoreModule",
) -> None:
    """The annotations say what the other keys of a configuration can be."""


_SUMMARY = """
Run folder  {run}
  {files}
  checkpoints/        last.ckpt, best.ckpt (by val/loss){weights}
  config.yaml         every setting
"""
_LATER = """
Train on    {bin}scorelight fit --config {run}/config.yaml --ckpt_path {run} {more}{trust}
Monitor     {bin}tensorboard --logdir {root}"""


def _twice_as_long(trainer: Trainer) -> str:
    """The flag that doubles what limits a run: its steps, or else its time."""
    seconds = time_limit(trainer)
    if trainer.max_steps > 0 or seconds is None:
        return f"--trainer.max_steps {2 * trainer.max_steps}"
    minutes, second = divmod(math.ceil(2 * seconds), 60)
    hours, minute = divmod(minutes, 60)
    day, hour = divmod(hours, 24)
    return f"--trainer.max_time {day:02}:{hour:02}:{minute:02}:{second:02}"


def _scripts_folder() -> str:
    """The folder of the commands, for a shell that would not find them."""
    return f"{os.path.relpath(Path(sys.executable).parent)}/"


def run(args: list[str]) -> None:
    """Parse and run."""
    shutdown = GracefulShutdown()
    try:
        command_line(args, shutdown)
    except Stopped as stopped:  # before the first step, or after the last
        stopped.add_note("Rerun the same command to start or resume the run")
        raise
    except (SIGTERMException, ImmediateExit):
        rank_zero_info("Stopped. Rerun the same command to resume; pass --resume false to start over.")
        raise SystemExit(shutdown.exit_code()) from None


def command_line(
    args: list[str], shutdown: GracefulShutdown | None = None, cls: type[RunCLI] = RunCLI
) -> RunCLI:
    """The command line of a run, which runs it, with the defaults of scorelight.

    Args:
        args: The subcommand and its arguments.
        shutdown: What handles signals (default: a new one).
        cls: RunCLI, or a class that does something else with what was built.
    """
    best = ModelCheckpoint(
        monitor="val/loss", filename="best", enable_version_counter=False, save_on_train_epoch_end=False
    )
    return cls(
        kind_of(args).module,
        LightningDataModule,
        subclass_mode_data=True,
        save_config_callback=RunConfigCallback,
        trainer_defaults={
            "default_root_dir": "runs",
            "max_epochs": -1,
            "num_sanity_val_steps": 0,
            "enable_model_summary": False,
            "log_every_n_steps": 10,
            "callbacks": [best, shutdown or GracefulShutdown(), NumericsMonitor()],
        },
        seed_everything_default=0,
        parser_kwargs={"exit_on_error": False, "allow_abbrev": False},
        auto_configure_optimizers=False,
        args=args,
    )
