"""Errors that a user can fix. The command line prints their message without a traceback."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable, Iterator

__all__ = [
    "ConfigurationError",
    "SamplingError",
    "SolverError",
    "Stopped",
    "TrainingDivergedError",
    "chain",
    "nearest",
]


class ConfigurationError(ValueError):
    """A setting, an argument or a file is wrong; the message names it, what was given and the remedy."""


class TrainingDivergedError(RuntimeError):
    """The loss became NaN or infinite; the message names step, times and the last valid checkpoint."""


class SolverError(RuntimeError):
    """An integrator did not reach the end, or a result is not finite; the message states what to change."""


class SamplingError(SolverError):
    """Samples are NaN or infinite; the message states how many, from which step on, and what to try."""


class Stopped(BaseException):
    """A signal stops the command. Its notes say what is kept.

    Args:
        signum: The signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error, the one that was being handled when it was raised, and so on: each once.

    An error that is raised again while it is handled can make the chain a circle.
    """
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def nearest(name: str, allowed: Iterable[str]) -> str:
    """The end of an error message: the closest allowed name, if one is close, and all allowed names."""
    names = sorted(allowed)
    close = {n.lower(): n for n in reversed(names)}
    match = difflib.get_close_matches(name.lower(), close, n=1)
    hint = f"did you mean {close[match[0]]!r}? " if match else ""
    return f"{hint}allowed: {', '.join(names)}" if names else hint or "nothing is allowed here"
