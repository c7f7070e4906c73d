"""Work that is done while the next is prepared."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

__all__ = ["in_background"]

_MOST_WAITING = 2


@contextmanager
def in_background() -> Iterator[Callable[..., None]]:
    """A block with a function that lets another thread do work: ``later(function, *args, **kwargs)``.

    The work is done in the order in which it is given, and is complete when the block ends, also if an error
    or a signal ends it. Where more than two pieces wait, `later` waits, too: memory is bounded.

    Raises:
        Exception: What the work has raised: at the next call of `later`, or at the end of the block. Work
            given after it is done all the same.
    """
    waiting: deque[Future[Any]] = deque()

    def later(function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        while waiting and (waiting[0].done() or len(waiting) > _MOST_WAITING):
            waiting.popleft().result()
        waiting.append(thread.submit(function, *args, **kwargs))

    with ThreadPoolExecutor(1, "background") as thread:
        yield later
    for work in waiting:
        work.result()
