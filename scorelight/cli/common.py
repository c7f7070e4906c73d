"""What the commands that are one typed function have in common."""

from __future__ import annotations

import inspect
from argparse import ArgumentError
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from lightning.pytorch import LightningDataModule

import scorelight.data  # noqa: F401  (its classes can be named by their short names)
from scorelight.batch import Batch, gather
from scorelight.cli.parser_errors import explain
from scorelight.errors import ConfigurationError
from scorelight.storage.runs import find_checkpoint
from scorelight.training.loading import read_config

__all__ = [
    "check_positive",
    "run_command",
    "run_on_data",
    "stored_config",
    "stored_data",
    "stored_sampler",
    "validation_batch",
    "written",
]


def run_command(function: Callable[..., None], args: list[str], **options: Any) -> None:
    """Parse the arguments by the function's signature and call it.

    Args:
        function: The command; its name is what it is called by.
        args: The arguments after that name.
        **options: For `jsonargparse.auto_cli`.

    Raises:
        ConfigurationError: If the arguments are wrong.
    """
    name = function.__name__
    try:
        auto_cli(
            function, args=args, prog=f"scorelight {name}", exit_on_error=False, allow_abbrev=False, **options
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


def run_on_data(function: Callable[..., None], args: list[str]) -> None:
    """`run_command` for a command on a checkpoint and data, by default the checkpoint's own.

    Args:
        function: The command, with parameters `checkpoint` and `data`.
        args: The arguments after its name.
    """
    _, data = stored_config(function.__name__, args)
    run_command(function, args, set_defaults={"data": data} if data else None)


def stored_sampler(model: dict[str, Any], args: list[str]) -> dict[str, Any]:
    """The checkpoint's sampler as a default, so that a flag changes one option; none if another is named."""
    named = any(arg.partition("=")[0] == "--sampler" for arg in args)  # with the options of its own class
    return {"sampler": model["sampler"]} if model and not named else {}


def check_positive(**numbers: int | None) -> None:
    """Find mistakes before the minutes that follow.

    Raises:
        ConfigurationError: If a number is given and is not at least 1.
    """
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise ConfigurationError(f"--{name} {value}: must be at least 1")


def stored_data(data: LightningDataModule | None, checkpoint: Path) -> LightningDataModule:
    """The data that `run_on_data` found.

    Raises:
        ConfigurationError: If there are none.
    """
    if data is None:
        raise ConfigurationError(f"{checkpoint} does not say what data it was trained on; add --data CLASS")
    return data


def validation_batch(data: LightningDataModule, num: int) -> Batch:
    """The first `num` validation examples, or all there are, as the model sees them."""
    data.prepare_data()
    data.setup("validate")
    return gather(data, "val_dataloader", num)


@contextmanager
def written(path: Path) -> Iterator[None]:
    """A block that writes to the path of --out; its folder is made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"--out {path}: cannot be written: {error}") from error
