"""Which cases of a test are left to `make test-slow`."""

import functools
from collections.abc import Iterable
from typing import Any

import pytest

slow = functools.partial(pytest.param, marks=pytest.mark.slow)


def slow_but(cases: Iterable[Any], *quick: Any) -> list[Any]:
    """All the cases, marked slow unless they are among the quick ones."""
    return [case if case in quick else slow(case) for case in cases]
