"""Dispatch to the commands, and report a user's mistake in one message."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from importlib import import_module

from scorelight import __version__
from scorelight.cli.configs import list_configs, resolve_configs
from scorelight.cli.error_report import user_message
from scorelight.cli.launcher import check_environment
from scorelight.cli.lists import join_words
from scorelight.cli.rendezvous import (
    end_children,
    end_with_parent,
    is_child,
    renew_rendezvous,
    shutdown_process_group,
    wait_for_parent,
)
from scorelight.cli.signals import report_stop, stopped_by_signals
from scorelight.cli.working_folder import find_modules_in
from scorelight.errors import ConfigurationError, Stopped, nearest
from scorelight.storage.trust import trust

__all__ = ["main"]

_FUNCTIONS = (
    "sample",
    "sweep",
    "evaluate",
    "statistics",
    "restore",
    "interpolate",
    "dequantize",
    "ema",
    "advise",
    "table",
    "piece",
)
_COMMANDS = ("fit", "validate", *(name for name in _FUNCTIONS if name != "piece"), "configs")

_HELP = """\
usage: scorelight COMMAND [--help | OPTIONS]

commands:
  fit          train a model:            scorelight fit --config digits/vp_epsilon
  validate     validation loss:          scorelight validate --config CONFIG --ckpt_path CHECKPOINT
  sample       draw samples:             scorelight sample RUN_OR_CHECKPOINT --num_samples 64 --out DIR
  sweep        one option, several values: scorelight sweep RUN --option sampler.eta --values 0 0.5 1
  evaluate     compute metrics:          scorelight evaluate RUN_OR_CHECKPOINT --metrics FrechetDistance
  statistics   features of real data:    scorelight statistics --data CIFAR10DataModule --out FILE.npz
  restore      from measurements:        scorelight restore RUN --operator Mask --operator.half left
  interpolate  between two images:       scorelight interpolate RUN_OR_CHECKPOINT --out FILE.png
  dequantize   learned dequantization:   scorelight dequantize RUN_OR_CHECKPOINT --out dequantizer.ckpt
  ema          another average of weights: scorelight ema RUN --sigma_rel 0.1
  advise       noise levels for data:    scorelight advise --data DigitsDataModule
  table        a published table:        scorelight table ddim_1
  configs      list the shipped configurations

Every option can be set in the configuration or as a flag: --model.process VESDE --model.process.sigma_max 5.
Flags override configurations, configurations override the checkpoint.

Every command takes:
  --trust PACKAGE  allow a checkpoint to name classes of this package of yours
  --traceback      show the traceback of an error that is reported in one message (or SCORELIGHT_TRACEBACK=1)
"""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0 is success, 1 a run that failed, 2 a mistake in the command, the configuration or a file, and 128 + the
    number of the signal a run that was stopped. Any other error is raised.
    """
    args = list(sys.argv[1:] if args is None else args)
    show_traceback = "--traceback" in args or os.environ.get("SCORELIGHT_TRACEBACK", "0") not in ("", "0")
    code, grace = 1, 0.0
    try:
        with stopped_by_signals():
            code = _run([arg for arg in args if arg != "--traceback"], show_traceback)
    except Stopped as stopped:
        code = report_stop(stopped)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except SystemExit:  # of a training whose processes have agreed to end
        grace = 10.0
        raise
    finally:
        if code:
            end_children(grace)
        shutdown_process_group()
    return code


def _run(args: list[str], show_traceback: bool) -> int:
    """Run the command and report its error, unless nobody expects it."""
    try:
        try:
            return _dispatch(_without_trust(args), show_traceback)
        finally:
            if sys.stdout:  # None if it was closed before the start
                sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has closed it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 128 + signal.SIGPIPE
    except Exception as error:
        reported = user_message(error)
        if reported is None:
            raise
        if show_traceback:
            traceback.print_exc()
        if is_child():
            wait_for_parent()  # which has made the same mistake, as a rule, and ends this process
        message, code = reported
        print(f"scorelight: error: {message}", file=sys.stderr)
        return code


def _without_trust(args: Sequence[str]) -> list[str]:
    """The arguments without --trust PACKAGE; the packages are trusted."""
    rest: list[str] = []
    remaining = iter(args)
    for arg in remaining:
        flag, equals, package = arg.partition("=")
        if flag != "--trust":
            rest.append(arg)
        elif package := package if equals else next(remaining, ""):
            trust(package)
        else:
            raise ConfigurationError("--trust PACKAGE: name the package whose classes checkpoints may name")
    return rest


def _dispatch(args: list[str], show_traceback: bool) -> int:
    command, *rest = join_words(args) or ["--help"]
    if command in ("-h", "--help", "help"):
        print(_HELP, end="")
    elif command == "--version":
        print(f"scorelight {__version__}")
    elif command == "configs":
        print(list_configs())
    elif command in ("fit", "validate"):
        rest = resolve_configs(rest)
        _prepare(rest, show_traceback)
        from scorelight.cli.fit import run

        run([command, *rest])
    elif command in _FUNCTIONS:
        _prepare(rest, show_traceback)
        getattr(import_module(f"scorelight.cli.{command}"), f"run_{command}")(rest)
    else:
        raise ConfigurationError(f"unknown command {command!r}; {nearest(command, _COMMANDS)}")
    return 0


_IGNORED_WARNINGS = (
    r".*LeafSpec.* is deprecated",
    r".*in eval mode at the start of training",  # the EMA copy, which stays in eval mode by design
    r".*Couldn't infer the batch indices",
    r".*passed in a `val_dataloader` but have no",  # a dequantizer is evaluated after its training
    r".*exists and is not empty",  # the checkpoints of a run that is resumed
    r".*The dirpath has changed",
    r".*is smaller than the logging interval",  # an epoch of small data; logging is by steps
)
_IGNORED_LOGS = ("Tip:", "TPU available", "GPU available: False")


def _is_relevant(record: logging.LogRecord) -> bool:
    """Whether a log message of Lightning is neither advertising nor about absent hardware."""
    return not any(words in record.getMessage() for words in _IGNORED_LOGS)


def _report_no_thread_twice(args: threading.ExceptHookArgs) -> None:
    """Print no error that the main thread reports as well: TensorBoard writes to a full disk in a thread."""
    if not isinstance(args.exc_value, Exception) or not user_message(args.exc_value):
        threading.__excepthook__(args)


def _working_folder() -> str:
    try:
        return os.getcwd()
    except OSError as error:
        raise ConfigurationError(
            "the working folder does not exist any more; change to another one"
        ) from error


def _prepare(args: Sequence[str], show_traceback: bool) -> None:
    """Let components be named from modules in the working folder; load those of installed plug-ins."""
    import warnings
    from importlib.metadata import entry_points

    working_folder = _working_folder()
    check_environment()
    end_with_parent()
    renew_rendezvous()
    threading.excepthook = threading.__excepthook__ if show_traceback else _report_no_thread_twice
    for message in _IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_relevant)

    import_module("scorelight.cli.plugins")
    find_modules_in(working_folder, args)
    for plugin in entry_points(group="scorelight.plugins"):
        plugin.load()
        trust(plugin.module.partition(".")[0])
