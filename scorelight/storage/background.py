"""Work that is done while the next is prepared."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = ["copy_to_host", "in_background"]

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


def copy_to_host(x: Tensor) -> Callable[[], Tensor]:
    """Begin to copy a tensor to the host's memory; the function that is returned waits for the copy.

    On a GPU the copy takes its turn behind the work that makes the tensor, and this process does not wait.
    """
    if x.device.type != "cuda":
        return x.cpu
    host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
    host.copy_(x, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record(torch.cuda.current_stream(x.device))

    def wait() -> Tensor:
        copied.synchronize()
        return host

    return wait
