"""Entry point of ``scorelight`` and ``python -m scorelight``."""

from __future__ import annotations

import ctypes
import os
import sys

from scorelight import cli

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep the memory that is freed, which the next step takes again.

    By default malloc gives large tensors back to the system, and every step has them mapped in page by page,
    a tenth of a small U-Net's training step on two cores. What the user sets in ``MALLOC_*_THRESHOLD_``
    stays, and other systems and allocators are left alone.
    """
    if sys.platform != "linux" or {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & set(os.environ):
        return
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_MMAP_THRESHOLD, 2**25)  # the largest that is allowed


def main() -> int:
    """Run the command line in a process of its own and return its exit code."""
    keep_freed_memory()
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
