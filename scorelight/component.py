"""What a model is made of, written down so that it can be built again.

Every plug point of scorelight (process, parameterization, network, objective, sampler, ...) is a
`Component`. A component remembers the arguments it was constructed with, so that `spec` can turn a
model that was put together in Python into the same nested ``{class_path, init_args}`` that a YAML
file holds. A checkpoint stores that and nothing else, and therefore rebuilds the model by itself.
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

__all__ = ["Component", "class_path", "refuse_none", "spec"]


class Component:
    """Remembers its constructor arguments; the base of every plug point."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Record the arguments as ``{name: value}``, the defaults left out."""
        self = super().__new__(cls)
        signature = inspect.signature(cls.__init__)
        _, *given = signature.bind_partial(self, *args, **kwargs).arguments.items()
        refuse_none(signature, dict(given), cls.__name__)
        init_args: dict[str, Any] = {}
        for name, value in given:  # those that went into **kwargs are recorded under their own names
            rest = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
            init_args |= value if rest else {name: value}
        object.__setattr__(self, "_init_args", init_args)  # nn.Module's own setattr is not ready yet
        return self


def refuse_none(signature: inspect.Signature, given: Mapping[str, Any], owner: str) -> None:
    """Refuse None, null in YAML, for a parameter that does not take it.

    Raises:
        ConfigurationError: If there is one.
    """
    for name, value in given.items():
        parameter = signature.parameters[name]
        typed = parameter.annotation is not parameter.empty and parameter.default is not None
        if (
            value is None
            and typed
            and not any(s in str(parameter.annotation) for s in ("None", "Any", "Optional"))
        ):
            remedy = "give a value"
            if parameter.default is not parameter.empty:
                remedy += f", or leave it out for {parameter.default!r}"
            raise ConfigurationError(f"{owner}: {name}=None (null): {remedy}")


def class_path(cls: type) -> str:
    """Shortest public import path: ``scorelight.VPSDE``, not ``scorelight.processes.sde.VPSDE``.

    The short path outlives a move of the class between files.
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
        init_args: Mapping[str, Any] = value._init_args  # type: ignore[attr-defined]
        return _entry(type(value), init_args)
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
