"""Building the components that a command line or a configuration names."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

from jsonargparse import ArgumentParser

from scorelight.cli.error_report import user_message
from scorelight.errors import ConfigurationError
from scorelight.storage.component import Component

__all__ = ["ComponentParser", "construct"]

_REFUSALS = (ValueError, OverflowError, RuntimeError)
_T = TypeVar("_T", bound=Component)


def construct(component: type[_T], *args: Any, **options: Any) -> _T:
    """Build a component from the user's options.

    A component of scorelight checks its options itself where it can. It leaves some to torch and to Python,
    such as a number that does not fit into 64 bits; what these raise for an unsuitable value is then the
    user's mistake. Every other error, and every error in a component from elsewhere, keeps its traceback.

    Raises:
        ConfigurationError: If the value of an option is refused, or the class is a base of others.
    """
    if inspect.isabstract(component):
        raise ConfigurationError(f"{component.__name__}: is the base of several classes; name one of them")
    try:
        return component(*args, **options)
    except _REFUSALS as error:
        ours = component.__module__.partition(".")[0] == "scorelight"
        if not ours or type(error) not in _REFUSALS or user_message(error):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise ConfigurationError(f"{component.__name__}({_plain(options)}): {reason}") from error


def _plain(options: dict[str, Any]) -> str:
    """The options that are numbers, strings or lists."""
    plain = {k: v for k, v in options.items() if isinstance(v, bool | int | float | str | list | tuple)}
    return ", ".join(f"{name}={value}" for name, value in plain.items())


class ComponentParser(ArgumentParser):
    """A parser that builds components by `construct`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_instantiator(construct, Component)
