"""Settings of a process that trains, made before torch is loaded.

`scorelight.__main__.main` calls these functions; nothing happens when this file is imported, and a program
that imports scorelight keeps its own settings.
"""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["keep_freed_memory", "limit_openmp_spinning"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h


def limit_openmp_spinning() -> None:
    """Let idle OpenMP threads sleep after 10,000 spins, unless the user has set how they wait.

    By default an idle thread of GNU OpenMP spins for milliseconds. If another process needs the core, the
    thread that has work to do is not scheduled in that time, at every parallel region: training on two cores
    became 19 times slower beside one busy process. With 10,000 spins it becomes 4.6 times slower, and on an
    idle machine nothing changes (``benchmarks/threads.md``). OpenMP reads the variable when torch is loaded.
    """
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def keep_freed_memory() -> None:
    """Let glibc keep freed memory, which the next training step allocates again.

    By default malloc returns large blocks to the system, and every step maps them in again page by page: a
    tenth of a small U-Net's training step on two cores. Does nothing if the user has set a
    ``MALLOC_*_THRESHOLD_``, and nothing with other systems and allocators.
    """
    if sys.platform != "linux" or {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & set(os.environ):
        return
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_MMAP_THRESHOLD, 2**25)  # the largest value that glibc accepts
