"""Objects that a file describes as plain data, ``{class_path, init_args}``, and how they are built.

A checkpoint, a dequantizer's file and the config.yaml of a run folder can come from a stranger. `described`
follows the description along the annotations of the constructors: where an annotation asks for a class, it
takes a class that `locate` returns and that is a subclass of the one asked for, and where it asks for plain
data, it takes plain data that can be nothing else. `build` builds the classes that were found in this way,
and no other.
"""

from __future__ import annotations

import collections.abc
import enum
import functools
import inspect
import re
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scorelight.errors import ConfigurationError, nearest
from scorelight.storage.component import Component, class_path
from scorelight.storage.hints import alternatives, parameters_of
from scorelight.storage.trust import locate

__all__ = ["Described", "arguments_of", "build", "described", "plain"]

_MOST_VALUES, _DEEPEST = 100_000, 50
_SCALARS = (bool, int, float, str, type(None))
_LISTS = (
    list,
    tuple,
    set,
    frozenset,
    collections.abc.Sequence,
    collections.abc.Iterable,
    collections.abc.Set,
)
_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_WORD = re.compile(r"(\w[\w:+-]{0,99})?")
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


@dataclass(frozen=True, slots=True)
class Described:
    """A class that may be built, and its arguments."""

    cls: type[Any]
    arguments: dict[str, Any]
    """By name: plain values, lists, dicts, and further `Described`."""
    as_factory: bool
    """Whether ``functools.partial`` of the class is wanted, as for an optimizer, and not an instance."""
    source: str


def described(value: Any, hint: Any, key: str, source: str | Path) -> Any:
    """Plain data with each description of an object replaced by its `Described`.

    Args:
        value: What the file holds: dicts, lists, numbers, strings, None.
        hint: The annotation of what is wanted.
        key: How a message names the value.
        source: How a message names the file.

    Raises:
        ConfigurationError: If this is not plain data, if it does not fit the annotation, or if it names
            anything but a class that may be built there.
    """
    _check_plain(value, key, str(source))
    return _Reader(str(source)).read(value, hint, key)


def arguments_of(
    owner: Callable[..., Any],
    values: Any,
    key: str,
    source: str | Path,
    *,
    complete: bool = True,
    elsewhere: Collection[str] = (),
) -> dict[str, Any]:
    """`described` for the arguments of a class or a function, by name; see there.

    Args:
        owner: The class or function.
        values: What the file holds.
        key: How a message names the values.
        source: How a message names the file.
        complete: Whether every parameter without a default needs a value, here and further down.
        elsewhere: Parameters of the owner whose values come from elsewhere.

    Raises:
        ConfigurationError: Also if there is no parameter of that name, or if one is missing.
    """
    _check_plain(values, key, str(source))
    return _Reader(str(source), complete).arguments(owner, values, key, elsewhere=elsewhere)


def build(value: Any) -> Any:
    """The object or, for an annotation that asks for a callable, a ``functools.partial`` of its class.

    Raises:
        ConfigurationError: If scorelight refuses an argument.
    """
    if isinstance(value, list):
        return [build(item) for item in value]
    if isinstance(value, tuple):
        return tuple(build(item) for item in value)
    if isinstance(value, dict):
        return {name: build(item) for name, item in value.items()}
    if not isinstance(value, Described):
        return value
    arguments = {name: build(argument) for name, argument in value.arguments.items()}
    make: Callable[..., Any] = value.cls
    if value.as_factory:
        return functools.partial(make, **arguments)
    try:
        return make(**arguments)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        ours = value.cls.__module__.partition(".")[0] == "scorelight"
        if not ours or isinstance(error, ConfigurationError):
            raise
        reason = str(error).partition("\n")[0]
        raise ConfigurationError(f"{value.source}: {value.cls.__name__}: {reason}") from error


def plain(value: Any) -> Any:
    """The plain data again, with the import path under which each class was found."""
    if isinstance(value, Described):
        return {"class_path": class_path(value.cls), "init_args": plain(value.arguments)}
    if isinstance(value, list | tuple | Set):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, enum.Enum):
        return value.name
    return str(value) if isinstance(value, Path) else value


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads one file."""

    source: str
    complete: bool = True

    def read(self, value: Any, hint: Any, key: str) -> Any:
        """The value, by the first alternative of the annotation that it fits."""
        allowed = alternatives(hint)
        if isinstance(value, dict) and "class_path" in value:
            return self._class(value, allowed, key)
        for alternative in sorted(allowed, key=lambda alternative: alternative is not type(value)):
            fits, read = self._plain(value, alternative, key)
            if fits and not (isinstance(value, str) and self._is_ambiguous(value, allowed)):
                return read
        raise ConfigurationError(f"{self.source}: {key}: {value!r:.80}: {_wanted(allowed)} is expected")

    def arguments(
        self,
        owner: Callable[..., Any],
        values: Any,
        key: str,
        given_in_code: int = 0,
        elsewhere: Collection[str] = (),
    ) -> dict[str, Any]:
        """Arguments by name.

        Args:
            owner: The class or function.
            values: What the file holds.
            key: How a message names it.
            given_in_code: How many of the first parameters are not the file's to give.
            elsewhere: Further parameters that need no value here.
        """
        name = owner.__name__
        if not isinstance(values, dict) or not all(isinstance(option, str) for option in values):
            raise ConfigurationError(
                f"{self.source}: {key}: {values!r:.80}: the options of {name} are expected"
            )
        hints, required, takes_more = parameters_of(owner, given_in_code)
        for option in values:
            if option not in hints and not (takes_more and option.isidentifier() and option != "self"):
                raise ConfigurationError(
                    f"{self.source}: {key}: {name} has no option {option!r:.80}; {nearest(option, hints)}"
                )
        missing = [option for option in required if option not in values and option not in elsewhere]
        if missing and self.complete:
            raise ConfigurationError(f"{self.source}: {key}: {name} needs {', '.join(missing)}")
        return {
            option: self.read(value, hints.get(option, Any), f"{key}.{option}")
            for option, value in values.items()
        }

    def _class(self, entry: dict[Any, Any], allowed: list[Any], key: str) -> Described:
        path, options = entry["class_path"], entry.get("init_args") or {}
        more = entry.get("dict_kwargs") or {}
        well_formed = (
            isinstance(path, str)
            and set(entry) <= {"class_path", "init_args", "dict_kwargs"}
            and isinstance(options, dict)
            and isinstance(more, dict)
        )
        if not well_formed:
            raise ConfigurationError(
                f"{self.source}: {key}: {entry!r:.120}: a class is described by class_path and init_args"
            )
        found = locate(path, self.source)
        for base, given_in_code, as_factory in _bases(allowed):
            if _is_subclass(found, base):
                if inspect.isabstract(found):
                    raise ConfigurationError(f"{self.source}: {key}: {path} is abstract; name a subclass")
                arguments = self.arguments(found, options | more, key, given_in_code)
                return Described(found, arguments, as_factory, self.source)
        raise ConfigurationError(f"{self.source}: {key}: {path} is not {_wanted(allowed)}")

    def _plain(self, value: Any, alternative: Any, key: str) -> tuple[bool, Any]:
        """Whether plain data fit one alternative of an annotation, and the value that it asks for."""
        origin, parameters = typing.get_origin(alternative) or alternative, typing.get_args(alternative)
        if value is None:
            return alternative in (Any, object, None, type(None)), None
        if alternative in (Any, object):
            return True, self._anything(value, key)
        if origin is Literal:
            return any(value == choice and type(value) is type(choice) for choice in parameters), value
        if origin in _LISTS and isinstance(value, list | tuple | set):
            return True, self._list(value, origin, parameters, key)
        if origin in _DICTS and isinstance(value, dict):
            of = parameters[1] if len(parameters) == 2 else Any
            return True, {name: self.read(item, of, f"{key}.{name}") for name, item in value.items()}
        if not inspect.isclass(origin):
            return False, None
        if isinstance(value, str) and origin is not str:
            return self._from_string(value, origin)
        if origin is float and type(value) is int:
            return True, float(value)
        return type(value) is origin and origin in _SCALARS, value

    def _is_ambiguous(self, value: str, allowed: list[Any]) -> bool:
        """Whether a parser could take the string for the description of a class, or of a file that has one.

        It cannot where the annotation asks for a string alone; elsewhere a single word is safe if there is no
        file of that name.
        """
        only_text = all(
            alternative in (str, None, type(None), int, float, bool)
            or typing.get_origin(alternative) is Literal
            or (inspect.isclass(alternative) and issubclass(alternative, Path | enum.Enum))
            for alternative in allowed
        )
        files = (Path(value), Path(self.source).parent / value)
        return not only_text and (not _WORD.fullmatch(value) or any(map(Path.exists, files)))

    def _list(self, value: Any, origin: Any, parameters: tuple[Any, ...], key: str) -> Any:
        """A list, or the tuple or set that the annotation asks for."""
        each = [parameter for parameter in parameters if parameter is not ...] or [Any]
        hints = each if len(each) == len(value) and ... not in parameters else each[:1] * len(value)
        items = [
            self.read(item, hint, f"{key}.{i}")
            for i, (item, hint) in enumerate(zip(value, hints, strict=True))
        ]
        return origin(items) if origin in (tuple, set, frozenset) else items

    def _anything(self, value: Any, key: str) -> Any:
        """Plain data for a parameter without an annotation."""
        if isinstance(value, dict):
            return {name: self.read(item, Any, f"{key}.{name}") for name, item in value.items()}
        if isinstance(value, list | tuple | set):
            return [self.read(item, Any, f"{key}.{i}") for i, item in enumerate(value)]
        return value

    def _from_string(self, value: str, wanted: type[Any]) -> tuple[bool, Any]:
        """A path, a member of an enumeration, or a number that YAML takes for a word, such as 1e-3."""
        if wanted is float:
            return (True, float(value)) if _NUMBER.fullmatch(value) else (False, None)
        if issubclass(wanted, enum.Enum):
            return value in wanted.__members__, wanted.__members__.get(value)
        return issubclass(Path, wanted) and wanted is not object, Path(value)


def _check_plain(value: Any, key: str, source: str) -> None:
    """Refuse what is not plain data, and what is nested too deeply or endlessly."""
    left, pending = _MOST_VALUES, [(value, 0)]
    while pending:
        item, depth = pending.pop()
        if type(item) in _SCALARS:
            continue
        if type(item) not in (dict, list, tuple, set):
            raise ConfigurationError(
                f"{source}: {key}: holds a {type(item).__name__}, and only plain data are expected"
            )
        left -= len(item)
        if depth == _DEEPEST or left < 0:
            raise ConfigurationError(f"{source}: {key}: nested too deeply, or has too many values")
        inside = [*item, *item.values()] if isinstance(item, dict) else item
        pending.extend((inner, depth + 1) for inner in inside)


def _bases(allowed: list[Any]) -> Iterator[tuple[Any, int, bool]]:
    """The classes that an annotation asks for.

    With each of them: how many of its first parameters the code gives, and whether a factory is wanted.
    """
    for alternative in allowed:
        origin, parameters = typing.get_origin(alternative) or alternative, typing.get_args(alternative)
        if alternative in (Any, object):
            yield Component, 0, False
        elif origin is collections.abc.Callable and len(parameters) == 2:
            in_code = len(parameters[0]) if isinstance(parameters[0], list) else 0
            for made in alternatives(parameters[1]):
                if inspect.isclass(made := typing.get_origin(made) or made):
                    yield made, in_code, True
        elif inspect.isclass(origin) and origin not in (*_SCALARS, *_LISTS, *_DICTS, Path):
            yield origin, 0, False


def _is_subclass(cls: type[Any], base: Any) -> bool:
    try:
        return issubclass(cls, base)
    except TypeError:  # a protocol that cannot be checked
        return False


def _wanted(allowed: list[Any]) -> str:
    names = [getattr(alternative, "__name__", str(alternative)) for alternative in allowed]
    return " or ".join(dict.fromkeys("None" if name == "NoneType" else name for name in names))
