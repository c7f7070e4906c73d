"""Models as plain data from which they can be built again.

Every plug point of scorelight (process, parameterization, network, objective, sampler, ...) is a
`Component`. A component remembers the arguments of its constructor, so that `spec` can turn a model
that was built in Python into the nested ``{class_path, init_args}`` of a YAML file. A checkpoint
stores it, and can therefore rebuild the model by itself.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from scorelight.errors import ConfigurationError
from scorelight.storage.hints import admits_none, type_hint

__all__ = ["Component", "class_path", "refuse_none", "spec"]


class Component:
    """Remembers its constructor arguments; the base of every plug point."""

    _init_args: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Record the given arguments as ``{name: value}``, without defaults."""
        self = super().__new__(cls)
        signature = inspect.signature(cls.__init__)
        _, *given = signature.bind_partial(self, *args, **kwargs).arguments.items()
        refuse_none(cls.__init__, dict(given), cls.__name__)
        init_args: dict[str, Any] = {}
        for name, value in given:  # those of **kwargs are recorded under their own names
            rest = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
            init_args |= value if rest else {name: value}
        object.__setattr__(self, "_init_args", init_args)  # nn.Module's own setattr is not ready yet
        return self


def refuse_none(function: Callable[..., Any], given: Mapping[str, Any], owner: str) -> None:
    """Refuse None, null in YAML, for a parameter whose annotation does not admit it.

    Args:
        function: The constructor.
        given: The arguments, by name.
        owner: How the message names the constructor.

    Raises:
        ConfigurationError: If an argument is None and may not be.
    """
    parameters = inspect.signature(function).parameters
    for name in (name for name, value in given.items() if value is None):
        default = parameters[name].default
        if default is None or admits_none(type_hint(function, name)):
            continue
        remedy = "give a value"
        if default is not inspect.Parameter.empty:
            remedy += f", or leave it out for {default!r}"
        raise ConfigurationError(f"{owner}: {name}=None (null): {remedy}")


def class_path(cls: type) -> str:
    """Shortest public import path: ``scorelight.VPSDE``, not ``scorelight.processes.sde.VPSDE``.

    The short path remains valid when the class moves to another file.
    """
    parents = cls.__module__.split(".")
    for n in range(1, len(parents)):
        package = ".".join(parents[:n])
        if getattr(sys.modules.get(package), cls.__name__, None) is cls:
            return f"{package}.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def spec(value: Any) -> Any:
    """Plain data (dict, list, str, number) from which the value can be built again.

    Args:
        value: A component, a class or a ``functools.partial`` of a class (an optimizer), or plain data.

    Raises:
        TypeError: If the value is none of these, such as a lambda: it could not be stored.
    """
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Component):
        return _entry(type(value), value._init_args)
    if isinstance(value, type):
        return _entry(value, {})
    if isinstance(value, functools.partial):
        return _entry(_class_of(value), value.keywords)
    if isinstance(value, Mapping):
        return {str(k): spec(v) for k, v in value.items()}
    if isinstance(value, Sequence):
        return [spec(v) for v in value]
    raise TypeError(
        f"{value!r} cannot be written to a checkpoint: pass a scorelight component, a class, or "
        f"functools.partial(SomeClass, option=...) of a class"
    )


def _entry(cls: type, init_args: Mapping[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {"class_path": class_path(cls)}
    if init_args:
        entry["init_args"] = {k: spec(v) for k, v in init_args.items()}
    return entry


def _class_of(factory: functools.partial[Any]) -> type:
    """The class that a partial builds; jsonargparse puts its own helpers before it."""
    candidates: list[Callable[..., Any]] = [factory.func, *factory.args]
    for candidate in candidates:
        if isinstance(candidate, type):
            return candidate
    raise TypeError(f"{factory!r} is not a partial of a class, so it cannot be written to a checkpoint")
