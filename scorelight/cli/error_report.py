"""Errors reported to the user in one message without a traceback; all others are bugs and keep theirs."""

from __future__ import annotations

import errno
import os
import re
import sys
from argparse import ArgumentError
from pathlib import Path

from scorelight.errors import ConfigurationError, SolverError, TrainingDivergedError, chain

__all__ = ["user_message"]

_WRONG_PATH = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
_NO_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "std::bad_alloc", "_STATUS_ALLOC_FAILED")
_LOST = ("Connection closed by peer", "Connection reset by peer", "Connection refused", "Broken pipe")
_CLASS_REFUSES = re.compile(r"Problem with given class_path '([^']+)':\s*(.+)")
_REPORTED = (ConfigurationError, ArgumentError, SolverError, TrainingDivergedError)


def user_message(error: BaseException) -> tuple[str, int] | None:
    """The message for an error and the exit code: 2 for a user's mistake, 1 for a run that failed.

    None for an error that is not meant for the user. An error counts for what it was raised as: of the errors
    before it only those are looked at that the parser has wrapped.
    """
    raised = _unwrap(error)
    if isinstance(raised, TrainingDivergedError | SolverError):
        return str(raised), 1
    lightnings = _is_instance(raised, "lightning.fabric.utilities.exceptions", "MisconfigurationException")
    if isinstance(raised, _REPORTED) or lightnings:
        return str(raised), 2
    if isinstance(raised, ModuleNotFoundError) and not (raised.name or "").startswith("scorelight"):
        return f"a package that is needed is not installed: {_first_line(raised)}", 2
    if message := _refused_file(raised) or _port_in_use(raised) or _refused_by_class(error, raised):
        return message, 2
    if message := _out_of_memory(raised) or _lost_process(raised):
        return message, 1
    return None


def _unwrap(error: BaseException) -> BaseException:
    """The error that the parser has wrapped.

    Where several types are allowed, as in ``Sampler | None``, jsonargparse tries each, and raises a
    ValueError *from* the error of a constructor.
    """
    for link in chain(error):
        if not link.__cause__ or not _is_from_parser(link):
            return link
    return error


def _is_from_parser(error: BaseException) -> bool:
    """Whether the parser itself has raised the error, and not something that it called."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    return type(error) in (ValueError, TypeError) and module.partition(".")[0] == "jsonargparse"


def _refused_by_class(error: BaseException, raised: BaseException) -> str:
    """What a constructor has raised, where the parser keeps nothing of it but its text.

    Of the errors of several types, such as a list of callbacks or one callback, the parser chains the first,
    which is then its own.
    """
    found = _CLASS_REFUSES.search(str(error)) if _is_from_parser(raised) else None
    return f"{found[1].rpartition('.')[2]}: {found[2]}" if found else ""


def _is_instance(error: BaseException, module: str, name: str) -> bool:
    """Whether the error is of a class in a module that is imported: nothing is imported to find out."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(error, kind)


def _refused_file(error: BaseException) -> str:
    """A file that the system does not let us write or open, or whose folder is gone."""
    if not isinstance(error, OSError):
        return ""
    file = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "a file"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        from scorelight.storage.atomic import write_error_message  # imports numpy, which --help does not need

        return write_error_message(file, error)
    if isinstance(error, FileNotFoundError) and not Path(file).parent.exists():
        return f"{file}: its folder does not exist; if it was removed or moved during the run, move it back"
    if error.errno in _WRONG_PATH and error.filename is not None:
        return f"{file}: {error.strerror}; choose another path"
    if isinstance(error, PermissionError):
        return f"{file}: {error.strerror}; check the permissions of the file and of its folder"
    return ""


def _out_of_memory(error: BaseException) -> str:
    reason = _first_line(error)
    known = isinstance(error, MemoryError) or _is_instance(error, "torch", "OutOfMemoryError")
    known = known or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    if not known and not (isinstance(error, RuntimeError) and any(words in reason for words in _NO_MEMORY)):
        return ""
    return (
        f"out of memory: {reason or type(error).__name__}; try a smaller data.batch_size, with "
        "trainer.accumulate_grad_batches for the same gradient, or a smaller network"
    )


def _port_in_use(error: BaseException) -> str:
    if not _is_instance(error, "torch.distributed", "DistNetworkError") or "EADDRINUSE" not in str(error):
        return ""
    port = os.environ.get("MASTER_PORT")
    return (
        f"environment variable MASTER_PORT={port}: another program uses this port, and the processes of this "
        "run cannot meet there; choose another one, or unset it if nothing else needs it"
    )


def _lost_process(error: BaseException) -> str:
    reason = _first_line(error)
    lost = isinstance(error, RuntimeError) and any(words in reason for words in _LOST)
    torchs = any(
        _is_instance(error, "torch.distributed", f"Dist{kind}Error") for kind in ("Backend", "Network")
    )
    if not lost and not torchs:
        return ""
    return (
        f"another process of this run has ended; see its own message, if it could write one ({reason}). "
        "Rerun the same command to resume from the last checkpoint"
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
