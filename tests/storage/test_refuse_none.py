"""Whether a parameter may be None is read from its annotation as a type, not as text."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal, Optional, TypeVar, Union

import pytest

from scorelight import ConfigurationError
from scorelight.storage.component import Component, refuse_none

if TYPE_CHECKING:
    from decimal import Decimal

MaybeInt = int | None
MaybeMaybe = Union[MaybeInt, str]  # noqa: UP007
Choice = Literal["a", "b"]
T = TypeVar("T")
Number = TypeVar("Number", bound=float)


class Alias(Component):
    def __init__(self, k: MaybeInt) -> None: ...


class NestedAlias(Component):
    def __init__(self, k: MaybeMaybe) -> None: ...


class OldOptional(Component):
    def __init__(self, k: Optional[int]) -> None: ...  # noqa: UP045


class NewOptional(Component):
    def __init__(self, k: int | None) -> None: ...


class Quoted(Component):
    def __init__(self, k: "int | None") -> None: ...  # noqa: UP037


class LiteralNone(Component):
    def __init__(self, k: Literal[None, "a"]) -> None: ...


class Anything(Component):
    def __init__(self, k: Any) -> None: ...


class Object(Component):
    def __init__(self, k: object) -> None: ...


class Unannotated(Component):
    def __init__(self, k) -> None: ...


class Unresolvable(Component):
    def __init__(self, k: Nowhere) -> None: ...  # noqa: F821


class OnlyForTheChecker(Component):
    def __init__(self, k: Decimal) -> None: ...


class FreeTypeVariable(Component):
    def __init__(self, k: T) -> None: ...


class DefaultNone(Component):
    def __init__(self, k: int = None) -> None: ...  # noqa: RUF013


class KeywordOnly(Component):
    def __init__(self, *, k: MaybeInt) -> None: ...


class Inherited(Alias):
    pass


ACCEPT = [
    Alias,
    NestedAlias,
    OldOptional,
    NewOptional,
    Quoted,
    LiteralNone,
    Anything,
    Object,
    Unannotated,
    Unresolvable,
    OnlyForTheChecker,
    FreeTypeVariable,
    DefaultNone,
    KeywordOnly,
    Inherited,
]


@pytest.mark.parametrize("cls", ACCEPT, ids=lambda c: c.__name__)
def test_none_is_accepted_where_the_annotation_admits_it_or_cannot_tell(cls):
    assert cls(k=None)._init_args == {"k": None}


class Plain(Component):
    def __init__(self, k: int) -> None: ...


class Defaulted(Component):
    def __init__(self, k: int = 3) -> None: ...


class Choices(Component):
    def __init__(self, k: Choice) -> None: ...


class Items(Component):
    def __init__(self, k: list[int | None]) -> None: ...


class Alternatives(Component):
    def __init__(self, k: int | str) -> None: ...


class BoundTypeVariable(Component):
    def __init__(self, k: Number) -> None: ...


class PlainChild(Plain):
    pass


REFUSE = [Plain, Defaulted, Choices, Items, Alternatives, BoundTypeVariable, PlainChild]


@pytest.mark.parametrize("cls", REFUSE, ids=lambda c: c.__name__)
def test_none_is_refused_where_the_annotation_excludes_it(cls):
    with pytest.raises(ConfigurationError, match=rf"{cls.__name__}: k=None \(null\): give a value"):
        cls(k=None)


def test_the_remedy_names_the_default():
    with pytest.raises(ConfigurationError, match="give a value, or leave it out for 3"):
        Defaulted(k=None)
    assert Defaulted()._init_args == {} and Defaulted(4)._init_args == {"k": 4}


def test_a_positional_none_is_refused_too():
    with pytest.raises(ConfigurationError, match="k=None"):
        Plain(None)


def test_the_annotation_of_a_decorated_constructor_is_read():
    class Decorated(Component):
        @functools.wraps(Plain.__init__)
        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    with pytest.raises(ConfigurationError, match="k=None"):
        Decorated(k=None)


def test_only_the_given_arguments_of_a_function_are_checked():
    def function(a: int, b: MaybeInt, c: int = 1) -> None: ...

    refuse_none(function, {"b": None}, "function")
    with pytest.raises(ConfigurationError, match="function: c=None"):
        refuse_none(function, {"a": 1, "b": None, "c": None}, "function")
