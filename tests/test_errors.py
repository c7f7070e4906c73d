"""The errors that a user can fix."""

import pytest

from scorelight.errors import chain
from scorelight.storage.atomic import write_error_message


def circle(length):
    """Errors, each of which was raised while the next one was handled, the last one during the first."""
    errors = [ValueError(str(n)) for n in range(length)]
    for error, handled in zip(errors, [*errors[1:], errors[0]], strict=True):
        error.__context__ = handled
    return errors


@pytest.mark.parametrize("length", [2, 3, 7])
def test_a_chain_of_errors_that_is_a_circle_ends(length):
    errors = circle(length)
    assert [*chain(errors[0])] == errors
    assert "x cannot be written: 0" in write_error_message("x", errors[0])


def test_a_circle_behind_the_error_ends_too():
    error = RuntimeError("first")
    error.__context__, *others = circle(3)
    assert [*chain(error)] == [error, error.__context__, *others]


def test_what_an_error_was_raised_from_comes_before_what_was_handled():
    error = RuntimeError("outer")
    error.__cause__, error.__context__ = OSError(28, "No space left"), ValueError("inner")
    assert [*chain(error)] == [error, error.__cause__]
    assert "No space left; make room" in write_error_message("x", error)
