"""``scorelight piece FOLDER ...``: pieces of a table, in a process of their own; `table` starts it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from scorelight.errors import ConfigurationError
from scorelight.tables.runner import RUNNER, PieceError, work_on
from scorelight.tables.store import PieceFolder

__all__ = ["run_piece"]

_OUTPUTS = (1, 2)


def run_piece(args: list[str]) -> None:
    """Do the work of the pieces in the folders, one after the other, unless it is done.

    What they print is in their logs. One that fails does not keep the others from running.
    """
    from scorelight.cli.main import main

    if not args or any(arg.startswith("-") for arg in args):
        raise ConfigurationError("scorelight piece FOLDER ...: give folders of pieces of a table")
    _end_with_runner()
    is_main = not getattr(rank_zero_only, "rank", 0)
    failed = False
    for folder in (PieceFolder(Path(arg)) for arg in args):
        with _printed_to(folder.log):
            try:
                work_on(folder, main, is_main)
            except PieceError:  # has been reported
                failed = True
            except Exception:
                traceback.print_exc()
                failed = True
    if failed:
        raise SystemExit(1)


@contextmanager
def _printed_to(log: Path) -> Iterator[None]:
    """A block in which the output of this process, and of those that it starts, is added to a file."""
    kept = [os.dup(number) for number in _OUTPUTS]
    try:
        with log.open("ab") as file:
            for number in _OUTPUTS:
                os.dup2(file.fileno(), number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, before in zip(_OUTPUTS, kept, strict=True):
            os.dup2(before, number)
            os.close(before)


def _end_with_runner() -> None:
    """Stop, as by SIGTERM, when the process that has started this one is no more."""
    runner = os.environ.get(RUNNER)
    if runner and int(runner) == os.getppid():
        threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(runner: int) -> None:
    while os.getppid() == runner:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
