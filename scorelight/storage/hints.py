"""Annotations of constructors: what they admit."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

__all__ = ["Parameters", "admits_none", "alternatives", "parameters_of", "type_hint"]


def type_hint(function: Callable[..., Any], name: str) -> Any:
    """The resolved annotation of a parameter; Any without one, or if it cannot be resolved."""
    function = inspect.unwrap(function)
    annotation = getattr(function, "__annotations__", {}).get(name, Any)
    alone = types.SimpleNamespace(__annotations__={name: annotation})
    try:
        return typing.get_type_hints(alone, getattr(function, "__globals__", {}))[name]
    except (NameError, TypeError, AttributeError):
        return Any


def alternatives(hint: Any) -> list[Any]:
    """The members of a union, also one behind a name; the annotation itself if it is no union."""
    if hasattr(hint, "__value__"):  # type X = ... of Python 3.12
        return alternatives(hint.__value__)
    if isinstance(hint, typing.TypeVar):
        return alternatives(hint.__bound__ or Any)
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return alternatives(hint.__origin__)
    if origin in (typing.Union, types.UnionType):
        return [alternative for member in typing.get_args(hint) for alternative in alternatives(member)]
    return [hint]


def admits_none(hint: Any) -> bool:
    """Whether None is a value of the type."""
    return any(
        alternative in (Any, object, None, type(None))
        or (typing.get_origin(alternative) is Literal and None in typing.get_args(alternative))
        for alternative in alternatives(hint)
    )


class Parameters(NamedTuple):
    """What a class or a function can be given."""

    hints: dict[str, Any]
    """Annotations by name."""
    required: list[str]
    """Names without a default."""
    takes_more: bool
    """Whether it takes names that are not listed."""


def parameters_of(owner: Callable[..., Any], skip: int = 0) -> Parameters:
    """The parameters of a class or a function.

    A constructor with ``**kwargs`` is taken to pass them on to the next one in the order of resolution.

    Args:
        owner: The class or function.
        skip: How many of the first parameters to leave out.
    """
    first, *further = _constructors(owner)
    parameters = _named(first, owner)[skip:]
    hints = {p.name: type_hint(first, p.name) for p in parameters}
    function = first
    for next_one in further:
        if not _takes_more(function):
            break
        function = next_one
        hints = {p.name: type_hint(function, p.name) for p in _named(function, owner)} | hints
    required = [p.name for p in parameters if p.default is p.empty]
    return Parameters(hints, required, _takes_more(first))


def _constructors(owner: Callable[..., Any]) -> list[Callable[..., Any]]:
    """The constructor of a class and those of its bases, or the function itself."""
    if not inspect.isclass(owner):
        return [owner]
    own = [vars(cls)["__init__"] for cls in owner.__mro__ if "__init__" in vars(cls) and cls is not object]
    return own or [owner.__init__]


def _named(function: Callable[..., Any], owner: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters that can be given by name, without ``self``."""
    parameters = list(inspect.signature(function).parameters.values())[inspect.isclass(owner) :]
    return [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _takes_more(function: Callable[..., Any]) -> bool:
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    return inspect.Parameter.VAR_KEYWORD in kinds
