"""Ctrl-C and SIGTERM: they stop every command."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from types import FrameType

from scorelight.cli.rendezvous import end_children, is_child
from scorelight.errors import Stopped

__all__ = ["report_stop", "stopped_by_signals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PATIENCE = 10.0
"""Seconds after which a process that has not noticed a signal ends all the same."""


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Within the block Ctrl-C and SIGTERM raise `Stopped`; a second one ends the process.

    The process ends at once if it is importing a module, since libraries continue with what is imported half,
    and after some seconds if it is in a call that does not return, as one that waits for other processes.
    Only the main thread can handle signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def stop(signum: int, frame: FrameType | None) -> None:
        signal.signal(signum, signal.SIG_DFL)
        if os.getpid() != owner:  # a worker that was forked
            os.kill(os.getpid(), signum)
        elif _is_importing(frame):
            _end(signum)
        raise Stopped(signum)

    _leave_forked_workers_alone()
    before = {signum: signal.signal(signum, stop) for signum in _SIGNALS}
    received, sent = os.pipe()
    os.set_blocking(sent, False)
    wakeup = signal.set_wakeup_fd(sent, warn_on_full_buffer=False)
    threading.Thread(target=_end_if_unnoticed, args=(received, stop), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        os.close(sent)
        for signum, handler in before.items():
            signal.signal(signum, handler)


@cache
def _leave_forked_workers_alone() -> None:
    """Keep the signals of forked workers out of this process's pipe."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=partial(signal.set_wakeup_fd, -1))


def report_stop(stopped: Stopped) -> int:
    """Say what is kept; the exit code. In processes of Lightning, which kills all at other codes, it is 0."""
    if is_child():
        return 0
    kept = " ".join(getattr(stopped, "__notes__", ["No result was written; rerun the same command"]))
    print(f"\nscorelight: stopped by {stopped}. {kept}", file=sys.stderr)
    return 128 + stopped.signum


def _is_importing(frame: FrameType | None) -> bool:
    while frame:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _end_if_unnoticed(received: int, stop: object) -> None:
    """Wait for a signal that `stop` handles, and then for the end of the block, which closes the pipe."""
    with open(received, "rb", buffering=0) as signals:
        while byte := signals.read(1):
            if byte[0] in _SIGNALS and signal.getsignal(byte[0]) in (stop, signal.SIG_DFL):
                ended, _, _ = select.select([signals], [], [], _PATIENCE)
                if not ended:
                    _end(byte[0])


def _end(signum: int) -> None:
    """End this process and those that Lightning has started for it."""
    code = report_stop(Stopped(signum))
    end_children()
    sys.stderr.flush()
    os._exit(code)
