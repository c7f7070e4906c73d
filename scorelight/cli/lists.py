"""Flags as people write them: ``--labels 3 5`` for ``[3,5]``, and ``--compile`` for ``--compile true``."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from itertools import zip_longest
from typing import Any, get_origin

from scorelight.errors import ConfigurationError
from scorelight.storage.hints import alternatives, type_hint

__all__ = ["as_lists", "as_switches", "join_words"]

_FLAG = re.compile(r"--?[A-Za-z]")  # not a negative number
_SPECIAL = re.compile(r"[:#\[\]{}\"']")


def join_words(args: list[str]) -> list[str]:
    """The arguments with two or more words after a flag made one list, as the parser wants it."""
    return _with_lists(args, lambda flag, words: len(words) > 1)


def as_lists(function: Callable[..., Any], args: list[str]) -> list[str]:
    """The arguments of a command with a single word made a list, where its parameter is one.

    Raises:
        ConfigurationError: If there is no word at all.
    """
    names = _flags(function, lambda hint: any(get_origin(h) is list for h in alternatives(hint)))

    def is_one(flag: str, words: list[str]) -> bool:
        if flag in names and not words:
            raise ConfigurationError(f"{flag}: give at least one")
        return flag in names and not words[0].startswith(("[", "{")) and words[0] != "null"

    return _with_lists(args, is_one)


def as_switches(function: Callable[..., Any], args: list[str]) -> list[str]:
    """The arguments with ``=true`` after a flag without a word, where the command's parameter is a bool."""
    names = _flags(function, lambda hint: hint is bool)
    return [
        f"{arg}=true" if arg in names and word.startswith("--") else arg
        for arg, word in zip_longest(args, args[1:], fillvalue="--")
    ]


def _flags(function: Callable[..., Any], wanted: Callable[[Any], bool]) -> set[str]:
    """The flags of a command whose annotations are wanted."""
    names = inspect.signature(function).parameters
    return {f"--{name}" for name in names if wanted(type_hint(function, name))}


def _with_lists(args: list[str], is_one: Callable[[str, list[str]], bool]) -> list[str]:
    """The arguments, with ``flag=[words]`` for each flag whose words are a list."""
    given: list[list[str]] = [[]]  # the words before all flags; then each flag and the words after it
    for arg in args:
        if _FLAG.match(arg):
            given.append([arg])
        else:
            given[-1].append(arg)
    changed = given[0]
    for arg, *words in given[1:]:
        flag, equals, value = arg.partition("=")
        listed = [value, *words] if equals else words
        changed += [f"{flag}={_list_of(listed)}"] if is_one(flag, listed) else [arg, *words]
    return changed


def _list_of(words: list[str]) -> str:
    return f"[{','.join(_quoted(word) for word in words)}]"


def _quoted(word: str) -> str:
    """The word, or what YAML reads as this word; one with commas is several."""
    return json.dumps(word) if _SPECIAL.search(word) and not word.startswith(("[", "{")) else word
