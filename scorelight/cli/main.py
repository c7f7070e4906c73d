"""Dispatch to the commands, and turn a user's mistake into one message."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module

from scorelight import __version__
from scorelight.cli.configs import list_configs, resolve_configs
from scorelight.cli.error_report import told
from scorelight.cli.rendezvous import part, renew_rendezvous
from scorelight.errors import ConfigurationError, nearest

__all__ = ["main"]

_FUNCTIONS = ("sample", "evaluate", "statistics", "interpolate", "dequantize", "advise")
_COMMANDS = ("fit", "validate", *_FUNCTIONS, "configs")

_HELP = """\
usage: scorelight COMMAND [--help | OPTIONS]

commands:
  fit          train a model:            scorelight fit --config digits/vp_epsilon
  validate     validation loss of one:   scorelight validate --config CONFIG --ckpt_path CHECKPOINT
  sample       draw samples from one:    scorelight sample RUN_OR_CHECKPOINT --num_samples 64 --out DIR
  evaluate     judge it:                 scorelight evaluate RUN_OR_CHECKPOINT --metrics FrechetDistance
  statistics   of features of real data: scorelight statistics --data CIFAR10DataModule --out FILE.npz
  interpolate  between two images:       scorelight interpolate RUN_OR_CHECKPOINT --out FILE.png
  dequantize   learned noise for bits:   scorelight dequantize RUN_OR_CHECKPOINT --out dequantizer.ckpt
  advise       noise for your data:      scorelight advise --data DigitsDataModule
  configs      list the shipped configurations

Every option can be set in the configuration or as a flag: --model.process VESDE --model.process.sigma_max 5.
Flags win over configurations, configurations over the checkpoint. Commands that read a checkpoint take
--trust PACKAGE for a package of yours whose classes it names.
"""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0 is success, 1 a run that failed, 2 a mistake in the command, the configuration or a file, and 128 + the
    number of the signal a run that was stopped.
    """
    args = list(sys.argv[1:] if args is None else args)
    try:
        return _dispatch(_trusting(args))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        if found := told(error):
            message, code = found
            print(f"scorelight: error: {message}", file=sys.stderr)
            return code
        raise
    finally:
        part()


def _trusting(args: list[str]) -> list[str]:
    """The arguments but for --trust PACKAGE, which every command takes."""
    from scorelight.storage.trust import trust

    rest, given = [], iter(args)
    for arg in given:
        flag, equals, package = arg.partition("=")
        if flag != "--trust":
            rest.append(arg)
        elif package := package if equals else next(given, ""):
            trust(package)
        else:
            raise ConfigurationError("--trust PACKAGE: name the package whose classes checkpoints may name")
    return rest


def _dispatch(args: list[str]) -> int:
    command, *rest = args or ["--help"]
    if command in ("-h", "--help", "help"):
        print(_HELP, end="")
    elif command == "--version":
        print(f"scorelight {__version__}")
    elif command == "configs":
        print(list_configs())
    elif command in ("fit", "validate"):
        _prepare()
        from scorelight.cli.fit import run

        run([command, *resolve_configs(rest)])
    elif command in _FUNCTIONS:
        _prepare()
        getattr(import_module(f"scorelight.cli.{command}"), f"run_{command}")(rest)
    else:
        raise ConfigurationError(f"unknown command {command!r}; {nearest(command, _COMMANDS)}")
    return 0


_NOISE = (
    r".*LeafSpec.* is deprecated",
    r".*in eval mode at the start of training",  # the average of the weights, on purpose
    r".*Couldn't infer the batch indices",
    r".*passed in a `val_dataloader` but have no",  # a dequantizer is judged when it is done
    r".*exists and is not empty",  # the checkpoints of a run that goes on
    r".*The dirpath has changed",
    r".*is smaller than the logging interval",  # a pass over small data; what is logged goes by steps
)


def _is_news(record: logging.LogRecord) -> bool:
    """Neither advertising nor lists of absent hardware."""
    return not any(s in record.getMessage() for s in ("Tip:", "TPU available", "GPU available: False"))


def _in_thread(args: threading.ExceptHookArgs) -> None:
    """Say nothing of what the main thread will tell: TensorBoard's writes in one of its own."""
    if not isinstance(args.exc_value, Exception) or not told(args.exc_value):
        threading.__excepthook__(args)


def _prepare() -> None:
    """Let components be named from modules in the working folder; load those of installed plug-ins."""
    import warnings
    from importlib.metadata import entry_points

    from scorelight.storage.trust import trust

    renew_rendezvous()
    threading.excepthook = _in_thread

    for noise in _NOISE:
        warnings.filterwarnings("ignore", message=noise)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_news)

    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for plugin in entry_points(group="scorelight.plugins"):
        plugin.load()
        trust(plugin.module.partition(".")[0])
