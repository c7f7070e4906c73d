"""``scorelight piece FOLDER``: one piece of a table, in a process of its own; `table` starts it."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from scorelight.errors import ConfigurationError
from scorelight.tables.runner import RUNNER, PieceError, work_on
from scorelight.tables.store import PieceFolder

__all__ = ["run_piece"]


def run_piece(args: list[str]) -> None:
    """Do the work of the piece in the folder, unless it is done."""
    from scorelight.cli.main import main

    if len(args) != 1 or args[0].startswith("-"):
        raise ConfigurationError("scorelight piece FOLDER: give the folder of a piece of a table")
    _end_with_runner()
    is_main = getattr(rank_zero_only, "rank", 0) in (0, None)
    try:
        work_on(PieceFolder(Path(args[0])), main, is_main)
    except PieceError as error:  # has been reported
        raise SystemExit(1) from error


def _end_with_runner() -> None:
    """Stop, as by SIGTERM, when the process that has started this one is no more."""
    runner = os.environ.get(RUNNER)
    if runner and int(runner) == os.getppid():
        threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(runner: int) -> None:
    while os.getppid() == runner:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
