"""Which errors are told in one message, and their exit codes; the others are ours and have a traceback."""

from __future__ import annotations

import errno
import os
import traceback
from argparse import ArgumentError

from scorelight.errors import ConfigurationError, SolverError, TrainingDivergedError
from scorelight.storage.atomic import write_error_message
from scorelight.storage.component import Component

__all__ = ["told"]

_LOST = ("Connection closed by peer", "Connection reset by peer", "Connection refused", "Broken pipe")


def told(error: Exception) -> tuple[str, int] | None:
    """The message and the exit code: 2 for what a user has to mend, 1 for a run that failed."""
    if isinstance(error, TrainingDivergedError | SolverError):
        return str(error), 1
    if message := _mistake(error) or _refused_file(error):
        return message, 2
    if message := _no_memory(error) or _lost_process(error):
        return message, 1
    if message := _refused_by_constructor(error):
        return message, 2
    return None


def _mistake(error: BaseException | None) -> str:
    """What the user did wrong, if that is at the bottom of the error; the parser wraps what classes raise."""
    while error:
        known = isinstance(error, ConfigurationError | ArgumentError)
        if known or type(error).__name__ == "MisconfigurationException":  # Lightning's own
            return str(error)
        error = error.__cause__ or error.__context__
    return ""


def _refused_file(error: Exception) -> str:
    """A file that the system does not let us write, or touch."""
    if not isinstance(error, OSError):
        return ""
    file = os.fsdecode(error.filename or "a file")
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return write_error_message(file, error)
    if isinstance(error, PermissionError):
        return f"{file}: {error.strerror}; see to the permissions of the file and of its folder"
    return ""


def _no_memory(error: Exception) -> str:
    said = _first_line(error)
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if not known and "DefaultCPUAllocator: can't allocate memory" not in said:
        return ""
    return (
        f"out of memory: {said or type(error).__name__}; try a smaller data.batch_size, with "
        "trainer.accumulate_grad_batches for the same gradient, or a smaller network"
    )


def _lost_process(error: Exception) -> str:
    said = _first_line(error)
    lost = isinstance(error, RuntimeError) and any(words in said for words in _LOST)
    if not lost and type(error).__name__ not in ("DistBackendError", "DistNetworkError"):
        return ""
    return (
        f"another process of this run has ended, and says why itself if it could ({said}). The same command "
        "goes on from the last checkpoint"
    )


def _refused_by_constructor(error: Exception) -> str:
    """An error of Python's or torch's in the constructor of one of scorelight's components.

    Each checks what it can; what is left is a number that is too large, or a list of lists. Components of
    others keep their traceback: their authors want to see it.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        made = frame.f_locals.get("self")
        ours = isinstance(made, Component) and type(made).__module__.startswith("scorelight.")
        if frame.f_code.co_name == "__init__" and ours:
            options = ", ".join(f"{k}={v}" for k, v in made._init_args.items())  # type: ignore[union-attr]
            return f"{type(made).__name__}({options}): {_first_line(error)}"
    return ""


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
