"""Files that a program must refuse: corrupted, or with a pickle that runs code."""

import random
from collections.abc import Callable
from typing import Any

import pytest


def corrupted(content: bytes, turn: int, rng: random.Random) -> bytearray:
    """A copy of a file's content that is truncated (odd turns) or has one bit flipped (even turns).

    In every fourth turn the bit is among the last 200 bytes, where the checksum and the zip directory are.
    """
    changed = bytearray(content)
    if turn % 2:
        del changed[rng.randrange(len(content)) :]
    else:
        place = rng.randrange(len(content)) if turn % 4 else len(content) - 1 - rng.randrange(200)
        changed[place] ^= 1 << rng.randrange(8)
    return changed


class CallWhenUnpickled:
    """Its pickle calls a function with these arguments when it is loaded."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def fail_when_unpickled() -> CallWhenUnpickled:
    """An object whose pickle fails the test that loads it."""
    return CallWhenUnpickled(pytest.fail, "was unpickled")
