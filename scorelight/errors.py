"""Errors that a user can fix. The command line prints their message without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["ConfigurationError", "SamplingError", "SolverError", "TrainingDivergedError", "nearest"]


class ConfigurationError(ValueError):
    """A setting, an argument or a file is wrong; the message names it, what was given and the remedy."""


class TrainingDivergedError(RuntimeError):
    """The loss became NaN or infinite; the message names step, times and the last valid checkpoint."""


class SolverError(RuntimeError):
    """An integrator did not reach the end, or a result is not finite; the message states what to change."""


class SamplingError(SolverError):
    """Samples are NaN or infinite; the message states how many, from which step on, and what to try."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """The end of an error message: the closest allowed name, if one is close, and all allowed names."""
    names = sorted(allowed)
    close = {n.lower(): n for n in reversed(names)}
    match = difflib.get_close_matches(name.lower(), close, n=1)
    hint = f"did you mean {close[match[0]]!r}? " if match else ""
    return f"{hint}allowed: {', '.join(names)}" if names else hint or "nothing is allowed here"
