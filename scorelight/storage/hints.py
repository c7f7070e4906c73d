"""Annotations of constructors: what they admit."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, Literal

__all__ = ["admits_none", "alternatives", "type_hint"]


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
