"""One message that names the key, what was given and what is allowed, out of the parser's own."""

from __future__ import annotations

import importlib
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from scorelight.errors import nearest

__all__ = ["explain", "unknown_flag"]

_KEY = re.compile(r'Parser key "([^"]+)"')
_CLASS = re.compile(r"Problem with given class_path '([^']+)'")
_REQUIRED = re.compile(r"class_path '([^']+)':\s+the following arguments are required: (\w+)")
_BAD_OPTION = re.compile(r"Option '([^']+)' is not accepted")
_BUILT_LATER = re.compile(r"Got value: Namespace\(class_path='([^']+)'")
_BAD_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
_BAD_VALUE = re.compile(r"Expected an? <class '(\w+)'>\. Got value: (.*)")
_BAD_CHOICE = re.compile(r"Expected a typing\.Literal\[(.*)\]\. Got value: (.*)")
_ABSTRACT = re.compile(r"Expected an instantiatable class, but \S*?(\w+) is abstract")
_NO_MEMBER = re.compile(r"((?:- Expected a <class '\w+'>\s+)+)Given value type: .*\s+Given value: (.*)")
_QUOTED = re.compile(r"'([^']*)'")
_BAD_KEY = re.compile(r"(?:unrecognized arguments:|does not accept option|Key) ['\"]?([^'\"\s]+)")


def explain(message: str, roots: dict[str, Callable[..., Any]], options: Iterable[str]) -> str:
    """Rewrite a message of the parser; one that is not understood stays as it is.

    Args:
        message: What the parser said.
        roots: For each top-level key the class or function whose annotations describe what is below it.
        options: All option strings of the parser.
    """
    keys, classes = _KEY.findall(message), _CLASS.findall(message) + _BUILT_LATER.findall(message)
    key = ".".join(keys)
    if bad := _BAD_OPTION.search(message):
        owner = _load(classes[-1]) if classes else None
        parameters = list(inspect.signature(owner).parameters) if owner else []
        name = classes[-1].rpartition(".")[2] if classes else "it"
        return f"{key}: {name} has no option {bad[1]!r}; {nearest(bad[1], parameters)}"
    if bad := _REQUIRED.search(message):
        return f"{key}: {bad[1].rpartition('.')[2]} needs {bad[2]!r}: --{key}.{bad[2]} VALUE"
    if bad := _BAD_CLASS.search(message):
        allowed = _classes(_annotation(keys, classes, roots))
        hint = nearest(bad[1], allowed)
        return f"{key}: unknown class {bad[1]!r}; {hint}, or the import path of a class of your own"
    if bad := _ABSTRACT.search(message):
        names = ", ".join(sorted(_classes(_annotation(keys, classes, roots))))
        return f"{key}: which {bad[1]}? Its options come after its class: --{key} CLASS; allowed: {names}"
    if bad := _BAD_CHOICE.search(message):
        return f"{key}: {bad[2]!r}; {nearest(bad[2], _QUOTED.findall(bad[1]))}"
    if bad := _NO_MEMBER.search(message):
        types = [name for name in _QUOTED.findall(bad[1]) if name != "NoneType"]
        return f"{key}: expected {' or '.join(types)}, got {bad[2]!r}"
    if bad := _BAD_VALUE.search(message):
        return f"{key}: expected {bad[1]}, got {bad[2]!r}"
    if bad := _BAD_KEY.search(message):
        return f"unknown option {bad[1]!r}; {_closest(bad[1], options)}"
    return f"{key}: {message.partition(chr(10))[2].strip()}" if keys and "\n" in message else message


def unknown_flag(args: Iterable[str], options: Iterable[str]) -> str:
    """A message on the first flag that is none: what follows from it is what the parser may complain of."""
    heads = {option.lstrip("-").partition(".")[0] for option in options}
    flags = (arg.partition("=")[0] for arg in args if arg.startswith("--"))
    wrong = next((f for f in flags if f.lstrip("-").partition(".")[0].rstrip("+") not in heads), None)
    return f"unknown option {wrong!r}; {_closest(wrong, options)}" if wrong else ""


def _closest(name: str, options: Iterable[str]) -> str:
    """Nearest option, without the list of them all: there are hundreds."""
    bare = name.lstrip("-").partition("=")[0]
    names = {o.lstrip("-") for o in options if not o.endswith((".help", "+"))}
    hint = nearest(bare, names).partition("? ")
    return f"{hint[0].strip()}?" if hint[1] else "see --help for those that there are"


def _load(path: str) -> type | None:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name, None) if module else None


def _annotation(keys: list[str], classes: list[str], roots: dict[str, Callable[..., Any]]) -> Any:
    """Annotation of the parameter at fault: of the innermost class that was understood."""
    if not keys:
        return None
    owner: Any = _load(classes[-1]) if classes and len(keys) > 1 else None
    if owner is None:
        head, _, rest = keys[0].partition(".")
        owner, keys = roots.get(head), [rest or head]
    if owner is None:
        return None
    function = inspect.getattr_static(owner, "__init__") if isinstance(owner, type) else owner
    return typing.get_type_hints(function).get(keys[-1].partition(".")[0])


def _classes(annotation: Any) -> set[str]:
    """Names of the concrete public classes that the annotation admits."""
    return {c.__name__ for base in _bases(annotation) for c in _below(base)}


def _bases(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, list | tuple):
        for part in annotation:
            yield from _bases(part)
    elif typing.get_origin(annotation) is Callable:
        yield from _bases(typing.get_args(annotation)[-1])
    elif typing.get_args(annotation):
        yield from _bases(typing.get_args(annotation))
    elif isinstance(annotation, type) and annotation.__module__ not in ("builtins", "types"):
        yield annotation


def _below(base: type) -> Iterator[type]:
    children: list[type] = base.__subclasses__()
    for child in children:
        if not inspect.isabstract(child) and not child.__name__.startswith("_"):
            yield child
        yield from _below(child)
