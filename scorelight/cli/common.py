"""Shared code of the commands that are one typed function."""

from __future__ import annotations

import inspect
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from jsonargparse import auto_cli
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy
from lightning.pytorch import LightningDataModule

from scorelight.cli.construction import ComponentParser
from scorelight.cli.launcher import check_number
from scorelight.cli.lists import as_lists, as_switches
from scorelight.cli.parser_errors import explain
from scorelight.denoisers.base import MakeWrapper
from scorelight.errors import ConfigurationError, nearest
from scorelight.evaluation.context import DistributedContext
from scorelight.evaluation.samples import SampleSource
from scorelight.samplers.base import Sampler
from scorelight.storage.runs import find_checkpoint
from scorelight.training.loading import load_module, read_config
from scorelight.training.module import Weights

__all__ = [
    "check_positive",
    "launch",
    "load_source",
    "run_command",
    "run_on_checkpoint",
    "stored_config",
    "stored_data",
    "written",
]


def run_command(function: Callable[..., Any], args: list[str], **options: Any) -> Any:
    """Parse the arguments by the function's signature and call it; what it returns.

    Args:
        function: The command, named like the function.
        args: The arguments after that name.
        **options: For `jsonargparse.auto_cli`.

    Raises:
        ConfigurationError: If the arguments are wrong.
    """
    name = function.__name__
    try:
        return auto_cli(
            function,
            args=as_lists(function, as_switches(function, args)),
            prog=f"scorelight {name}",
            exit_on_error=False,
            allow_abbrev=False,
            parser_class=ComponentParser,
            **options,
        )
    except ArgumentError as error:
        roots = dict.fromkeys(inspect.signature(function).parameters, function)
        raise ConfigurationError(explain(str(error), roots, [f"--{key}" for key in roots])) from error


def stored_config(command: str, args: list[str]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Configurations of model and data in the checkpoint that the first argument names; empty for --help.

    Raises:
        ConfigurationError: If it names none.
    """
    if args and not args[0].startswith("-"):
        return read_config(find_checkpoint(args[0]))
    if {"-h", "--help"} & set(args):
        return {}, None
    raise ConfigurationError(
        f"scorelight {command} RUN_OR_CHECKPOINT ...: name the run folder or checkpoint first"
    )


def run_on_checkpoint(function: Callable[..., Any], args: list[str], stored: Sequence[str]) -> Any:
    """`run_command` for a command on a checkpoint, with some of its settings as defaults.

    A flag can then change one option of the checkpoint's sampler, say; another class that a flag names comes
    with the options of its own.

    Args:
        function: The command, with the parameter `checkpoint`.
        args: The arguments after its name.
        stored: Parameters whose defaults are in the checkpoint: of ``sampler``, ``guidance`` and ``data``.
    """
    model, data = stored_config(function.__name__, args)
    named = {arg.partition("=")[0] for arg in args}
    settings = {**model, "data": data}
    defaults = {key: settings[key] for key in stored if settings.get(key)}
    kept = {key: value for key, value in defaults.items() if key == "data" or f"--{key}" not in named}
    return run_command(function, args, set_defaults=kept or None)


def launch(accelerator: str, devices: int, num_nodes: int = 1) -> DistributedContext:
    """Start the processes of a command; on each of several nodes it is started by the user or a launcher.

    Processes that share work wait for each other at its end alone, for a day if they are of unequal speed.
    """
    strategy = DDPStrategy(timeout=timedelta(days=1)) if devices * num_nodes > 1 else "auto"
    fabric = Fabric(accelerator=accelerator, strategy=strategy, devices=devices, num_nodes=num_nodes)
    check_number(fabric.world_size)
    fabric.launch()
    return DistributedContext.from_fabric(fabric)


def load_source(
    path: Path,
    weights: Weights,
    sampler: Sampler | None,
    guidance: MakeWrapper | None,
    labels: Sequence[int | str] | None = None,
) -> SampleSource:
    """The model of a checkpoint, on the CPU; its own sampler and classes are the defaults.

    Raises:
        ConfigurationError: If the sampler is not defined for the process, or the model lacks a class.
    """
    module = load_module(path)
    module.guidance, chosen = guidance, sampler or module.sampler
    chosen.levels(module.denoiser.process)
    denoiser = module.denoiser_for(weights)
    number = denoiser.num_classes or chosen.num_classes or 0
    chosen_labels = _numbers(labels or (), number, module.class_names or ())
    needs_labels = bool(denoiser.num_classes) and not module.condition_dropout
    return SampleSource(denoiser, chosen, module.shape, chosen_labels or denoiser.labels, needs_labels)


def _numbers(labels: Sequence[int | str], number: int, names: Sequence[str]) -> list[int]:
    """The classes that numbers or names stand for.

    Raises:
        ConfigurationError: If there is no such class.
    """
    found = [names.index(label) if label in names else label for label in labels]
    for label in found:
        if not number:
            raise ConfigurationError(f"--labels {label}: the model is not class-conditional")
        if isinstance(label, str):
            known = nearest(label, names) if names else f"the classes have no names; give 0 to {number - 1}"
            raise ConfigurationError(f"--labels {label}: {known}")
        if not 0 <= label < number:
            raise ConfigurationError(f"--labels {label}: classes are 0 to {number - 1}")
    return [label for label in found if isinstance(label, int)]


def check_positive(**numbers: int | Literal["auto"] | None) -> None:
    """Report mistakes before the minutes that follow.

    Raises:
        ConfigurationError: If a number is given and is not at least 1.
    """
    for name, value in numbers.items():
        if isinstance(value, int) and value < 1:
            raise ConfigurationError(f"--{name} {value}: must be at least 1")


def stored_data(data: LightningDataModule | None, checkpoint: Path) -> LightningDataModule:
    """The data module that the checkpoint or the command line names.

    Raises:
        ConfigurationError: If there are none.
    """
    if data is None:
        raise ConfigurationError(f"{checkpoint} does not state what data it was trained on; add --data CLASS")
    return data


@contextmanager
def written(path: Path) -> Iterator[None]:
    """A block that writes to the path of --out, whose folder is created."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except ConfigurationError:  # of what is written, which has its own message
        raise
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"--out {path}: cannot be written: {error}") from error
