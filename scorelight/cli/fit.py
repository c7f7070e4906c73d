"""``scorelight fit`` and ``scorelight validate``: LightningCLI with our defaults."""

from __future__ import annotations

import inspect
import os
import shutil
import sys
from argparse import ArgumentError
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

import scorelight.data  # noqa: F401  (its classes can be named by their short names)
from scorelight.cli.configs import packages_named
from scorelight.cli.parser_errors import explain, unknown_flag
from scorelight.errors import ConfigurationError
from scorelight.evaluation.sample_grid import SampleGridCallback
from scorelight.storage.component import refuse_none
from scorelight.storage.runs import find_checkpoint
from scorelight.storage.trust import third_party_packages, trust
from scorelight.training.checkpointing import RollingCheckpoint, VerifiedCheckpointIO
from scorelight.training.loading import read_config
from scorelight.training.module import ScoreModule
from scorelight.training.numerics_monitor import NumericsMonitor
from scorelight.training.progress import StepProgressBar
from scorelight.training.run_folder import (
    Interrupted,
    RunConfigCallback,
    RunFolderCallback,
    find_interrupted,
    finish,
)
from scorelight.training.shutdown import GracefulShutdown, ImmediateExit

__all__ = ["RunCLI", "run"]


class RunCLI(LightningCLI):
    """The flags of a run: trainer, model, data, checkpoint and samples."""

    interrupted: Interrupted | None = None

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Train, or measure the validation loss."""
        return {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule", "weights_only"},
            "validate": {"model", "dataloaders", "datamodule", "weights_only"},
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The shape is written once, by the data; the run's own callbacks have keys of their own."""
        parser.link_arguments("data.shape", "model.network.init_args.shape", apply_on="instantiate")
        parser.add_lightning_class_args(RollingCheckpoint, "checkpoint")
        parser.add_lightning_class_args(SampleGridCallback, "samples")
        parser.add_argument(
            "--resume",
            type=bool,
            default=True,
            help="Go on with the run of this very configuration that was interrupted, if there is one.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse with the checkpoint's model as the default: flags > YAML > checkpoint > code."""
        assert isinstance(args, list)
        subparser = self._subcommand_parsers[args[0]]
        try:
            self.config = parser.parse_args(self._with_checkpoint(args))
        except ArgumentError as error:
            if unknown := unknown_flag(args[1:], subparser._option_string_actions):
                raise ConfigurationError(unknown) from error
            roots: dict[str, Any] = {"model": ScoreModule, "trainer": Trainer, "data": _data}
            raise ConfigurationError(explain(str(error), roots, subparser._option_string_actions)) from error

    def _interrupted(self) -> Interrupted | None:
        """The run to go on with. All processes find the same: none writes before all have looked."""
        config = self._get(self.config, "trainer")
        wanted = self._get(self.config, "resume") and not config["fast_dev_run"]
        if not wanted or config["logger"] not in (None, True):
            return None
        mine = self._parser("fit").dump(self.config["fit"], skip_none=False)
        return find_interrupted(_root(config), mine)

    def _with_checkpoint(self, args: list[str]) -> list[str]:
        """Find the checkpoint that --ckpt_path means and take the defaults from it."""
        for i, arg in enumerate(args):
            flag, equals, value = arg.partition("=")
            if flag == "--ckpt_path":
                path = find_checkpoint(value if equals else args[i + 1] if i + 1 < len(args) else "")
                trust(*packages_named(args))
                model, data = read_config(path)
                defaults = {"seed_everything": model.pop("seed")} | {
                    f"model.{k}": v for k, v in model.items()
                }
                self._subcommand_parsers[args[0]].set_defaults(defaults | ({"data": data} if data else {}))
                return [*args[:i], f"--ckpt_path={path}", *args[i + (1 if equals else 2) :]]
        return args

    def _parse_ckpt_path(self) -> None:
        """Lightning would let the checkpoint win over flags and YAML here, silently."""

    def before_instantiate_classes(self) -> None:
        """Refuse null where it means nothing. Only training makes a run folder, or goes on with one."""
        parts: dict[str, type] = {
            "trainer": Trainer,
            "checkpoint": RollingCheckpoint,
            "samples": SampleGridCallback,
        }
        for key, part in parts.items():
            if not isinstance(given := self._get(self.config, key), Namespace):
                raise ConfigurationError(
                    f"{key}: {given!r}: its options are expected, such as {key}.help shows"
                )
            refuse_none(inspect.signature(part), given.as_dict(), key)
        if self.subcommand == "fit":
            self.interrupted = self._interrupted()
        else:
            self.save_config_callback = None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Log to a run folder below default_root_dir; a resumed run goes on in its own."""
        config = self._get(self.config_init, "trainer")
        if self.subcommand != "fit":
            kwargs["logger"] = False
        elif config["logger"] in (None, True):
            root, old = _root(config), self.interrupted
            kwargs["logger"] = TensorBoardLogger(
                root,
                name="",
                version=old.folder.name if old else self._version(root),
                purge_step=old.step if old else None,
            )
        callbacks = self.trainer_defaults["callbacks"]
        if config["enable_progress_bar"] in (None, True):
            callbacks.append(StepProgressBar())
        kwargs["plugins"] = [*(config["plugins"] or []), VerifiedCheckpointIO()]
        try:
            return super().instantiate_trainer(**kwargs)
        except (ModuleNotFoundError, ValueError) as error:  # a device or an option that is not there
            raise ConfigurationError(f"trainer: {error}") from error

    def _version(self, root: Path) -> str | None:
        ckpt_path = self._get(self.config, "ckpt_path")
        run = Path(ckpt_path).resolve().parents[1] if ckpt_path else None
        return run.name if run and run.parent == root.resolve() else None

    def before_fit(self) -> None:
        """Refuse an impossible optimizer before anything is written."""
        self.model.configure_optimizers()
        if old := self.interrupted:
            rank_zero_info(f"Going on with {old.folder} from step {old.step}")
            self.config_init["fit"]["ckpt_path"] = old.checkpoint or self.config_init["fit"]["ckpt_path"]

    def after_fit(self) -> None:
        """Say where everything is and what to do next."""
        folder = self.trainer.log_dir
        if self.trainer.is_global_zero and folder:
            finish(Path(folder))
            parts = {"run": folder, "root": self.trainer.default_root_dir, "more": 2 * self.trainer.max_steps}
            foreign = sorted(third_party_packages(self.model.hparams, self.config["fit"].as_dict()["data"]))
            parts["trust"] = "".join(f" --trust {package}" for package in foreign)
            print(_SUMMARY.format(**parts, bin="" if shutil.which("scorelight") else _own_folder()))


def _root(trainer: Any) -> Path:
    """Where run folders are made: the working folder if null is given, as Lightning has it."""
    return Path(trainer["default_root_dir"] or ".")


def _data(data: LightningDataModule) -> None:
    """Tells what `data` can be."""


_SUMMARY = """
Run folder  {run}
  samples/            pictures of samples, the last one at the last step; data.png to compare with
  checkpoints/        last.ckpt, best.ckpt (by val/loss): raw weights (denoiser.*) and their average (ema.*)
  config.yaml         everything that was set
Draw more   {bin}scorelight sample {run} --num_samples 64 --seed 1 --out {run}/more{trust}
Train on    {bin}scorelight fit --config {run}/config.yaml --ckpt_path {run} --trainer.max_steps {more}
Look at it  {bin}tensorboard --logdir {root}"""


def _own_folder() -> str:
    """Where the commands are, for a shell that would not find them."""
    return f"{os.path.relpath(Path(sys.executable).parent)}/"


def run(args: list[str]) -> None:
    """Parse and run."""
    best = ModelCheckpoint(
        monitor="val/loss", filename="best", enable_version_counter=False, save_on_train_epoch_end=False
    )
    stopping = GracefulShutdown()
    try:
        RunCLI(
            ScoreModule,
            LightningDataModule,
            subclass_mode_data=True,
            save_config_callback=RunConfigCallback,
            trainer_defaults={
                "default_root_dir": "runs",
                "max_epochs": -1,
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
                "log_every_n_steps": 10,
                "callbacks": [best, stopping, RunFolderCallback(), NumericsMonitor()],
            },
            seed_everything_default=0,
            parser_kwargs={"exit_on_error": False, "allow_abbrev": False},
            auto_configure_optimizers=False,
            args=args,
        )
    except (SIGTERMException, ImmediateExit):
        rank_zero_info("Stopped. The same command goes on with this run, unless told --resume false")
        raise SystemExit(stopping.exit_code()) from None
