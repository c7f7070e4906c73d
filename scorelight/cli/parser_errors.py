"""Rewrites the parser's messages: one line with the key, the value given and what is allowed.

jsonargparse raises errors with prose only. `PATTERNS` are all that is taken from it, and
``tests/cli/test_parser_errors.py`` has one test for each that fails when the prose changes. A message that no
pattern matches is shown as it is.
"""

from __future__ import annotations

import importlib
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from scorelight.errors import nearest

__all__ = ["PATTERNS", "explain", "unknown_flag"]

PATTERNS = {
    "key": re.compile(r'Parser key "([^"]+)"'),
    "class": re.compile(r"Problem with given class_path '([^']+)'"),
    "option of a class": re.compile(
        r"Option '([^']+)' is not accepted(?:\. Got value: Namespace\(class_path='([^']+)')?"
    ),
    "option": re.compile(r"(?:unrecognized arguments:|does not accept option) '?([^'\s=]+)"),
    "required": re.compile(r"the following arguments are required: (\w+)"),
    "class of a factory": re.compile(r"^ *Given value: Namespace\(class_path='([^']+)'", re.MULTILINE),
    "no class": re.compile(r"Dict must include a class_path"),
    "object around the value": re.compile(r"\. Got value: Namespace\(.*$", re.MULTILINE),
    "expected": re.compile(r"Expected an? (.+?)(?:(?:: |\. Got value: )(.*))?$", re.MULTILINE),
}
_GIVEN = "Given value: "  # at the end of the message on a union, in place of "Got value" for each member


def explain(message: str, roots: Mapping[str, Callable[..., Any]], options: Iterable[str]) -> str:
    """Rewrite a message of the parser.

    Args:
        message: The parser's message.
        roots: For each top-level key the class or function whose annotations describe what is below it.
        options: All option strings of the parser.
    """
    keys, classes = (PATTERNS[name].findall(message) for name in ("key", "class"))
    key = ".".join(keys)
    if match := PATTERNS["option of a class"].search(message):
        owner = match[2] or "".join(classes[-1:])
        return f"{key}: {_no_option(match[1], owner)}" if owner else _unknown_option(match[1], options)
    incomplete = [*classes, *PATTERNS["class of a factory"].findall(message)]
    if incomplete and (match := PATTERNS["required"].search(message)):
        return f"{key}: {_name(incomplete[-1])} needs {match[1]!r}: --{key}.{match[1]} VALUE"
    if match := PATTERNS["option"].search(message):
        return _unknown_option(match[1], options)
    explained = keys and _explain_type(message, key, lambda: _annotation(keys, classes, roots))
    return f"{key}: {explained}" if explained else message


def unknown_flag(args: Iterable[str], options: Iterable[str]) -> str:
    """A message on the first flag that does not exist; empty if all exist.

    The parser may report an error that only follows from such a flag.
    """
    heads = {option.lstrip("-").partition(".")[0] for option in options}
    flags = (arg.partition("=")[0] for arg in args if arg.startswith("--"))
    wrong = next((f for f in flags if f.lstrip("-").partition(".")[0].rstrip("+") not in heads), None)
    return _unknown_option(wrong, options) if wrong else ""


def _unknown_option(name: str, options: Iterable[str]) -> str:
    """The nearest option, without the hundreds of others."""
    bare = name.lstrip("-").partition("=")[0]
    names = {o.lstrip("-") for o in options if not o.endswith((".help", "+"))}
    hint, question, _ = nearest(bare, names).partition("? ")
    return f"unknown option {name!r}; {hint + '?' if question else 'see --help for all options'}"


def _no_option(option: str, class_path: str) -> str:
    """The options of the class instead."""
    owner = _load(class_path)
    parameters = list(inspect.signature(owner).parameters) if owner else []
    return f"{_name(class_path)} has no option {option!r}; {nearest(option, parameters)}"


def _explain_type(message: str, key: str, annotation: Callable[[], Any]) -> str:
    """What was expected at a key: a class, one of some choices, or a value of a type; empty if unknown."""
    if PATTERNS["no class"].search(message) and (bases := [*_bases(annotation())]):
        return _which(bases[0].__name__, key, bases)
    message = PATTERNS["object around the value"].sub("", message)
    expected = PATTERNS["expected"].findall(message)
    given = next((g for _, g in expected if g), message.partition(_GIVEN)[2].partition("\n")[0])
    types = [kind.split("'")[1] for kind, _ in expected if kind.startswith("<class '")]
    names = " or ".join(_name(name) for name in types if name != "NoneType")
    for kind, value in expected:
        if kind == "dot import path string" and not names:
            hint = nearest(value, _class_names(annotation()))
            return f"unknown class {value!r}; {hint}, or the import path of a class of your own"
        if kind.startswith("instantiatable class, but ") and kind.endswith(" is abstract"):
            return _which(_name(kind.split()[-3]), key, annotation())
        if kind.startswith("typing.Literal["):
            other = f", or a value of type {names}" if names else ""
            return f"{value or given!r}; {nearest(value or given, kind.split(chr(39))[1::2])}{other}"
    return f"expected {names}, got {given!r}" if names else ""


def _which(base: str, key: str, annotation: Any) -> str:
    """The question for a class, where only its options are given."""
    allowed = ", ".join(sorted(_class_names(annotation)))
    return f"which {base}? Its options come after its class: --{key} CLASS; allowed: {allowed}"


def _name(path: str) -> str:
    return path.rpartition(".")[2]


def _load(path: str) -> type | None:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name, None) if module else None


def _annotation(keys: list[str], classes: list[str], roots: Mapping[str, Callable[..., Any]]) -> Any:
    """The annotation of the parameter that the innermost key sets."""
    owner: Any = _load(classes[-1]) if classes and len(keys) > 1 else None
    if owner is None:
        head, _, rest = keys[0].partition(".")
        owner, keys = roots.get(head), [rest or head]
    if owner is None:
        return None
    function = inspect.getattr_static(owner, "__init__") if isinstance(owner, type) else owner
    return typing.get_type_hints(function).get(keys[-1].partition(".")[0])


def _class_names(annotation: Any) -> set[str]:
    """Names of the concrete public classes that the annotation admits."""
    return {c.__name__ for base in _bases(annotation) for c in _concrete_subclasses(base)}


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


def _concrete_subclasses(base: type) -> Iterator[type]:
    children: list[type] = base.__subclasses__()
    for child in children:
        if not inspect.isabstract(child) and not child.__name__.startswith("_"):
            yield child
        yield from _concrete_subclasses(child)
