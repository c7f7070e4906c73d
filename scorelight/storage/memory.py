"""How much memory data may take: sizes are checked before anything is decompressed."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from scorelight.errors import ConfigurationError

__all__ = ["LARGEST_FILE", "check_file_size", "check_memory", "total_memory"]

LARGEST_FILE = 2**28
"""Bytes that an image file or a list of labels may have, 256 MiB."""

_CONTROL_GROUP = Path("/sys/fs/cgroup/memory.max")


def total_memory() -> int | None:
    """Bytes of memory that this process may use at most; None where the system does not tell."""
    limits = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError, ValueError):  # no control group, or the word "max"
        limits.append(int(_CONTROL_GROUP.read_text()))
    return min((limit for limit in limits if limit > 0), default=None)


def check_memory(what: object, num_bytes: int, remedy: str) -> None:
    """Refuse what cannot be held in memory.

    Args:
        what: How the message names it.
        num_bytes: Bytes that it takes.
        remedy: What the user can do.

    Raises:
        ConfigurationError: If it takes more than there is.
    """
    total = total_memory()
    if total is not None and num_bytes > total:
        needed, there = (f"{n / 2**30:,.1f} GiB" for n in (num_bytes, total))
        raise ConfigurationError(
            f"{what}: cannot be loaded: takes {needed} of memory, and there are {there}; {remedy}"
        )


def check_file_size(where: str, num_bytes: int) -> None:
    """Refuse a file that is too large to be an image or a list of labels.

    Raises:
        ConfigurationError: If it has more than `LARGEST_FILE` bytes.
    """
    if num_bytes > LARGEST_FILE:
        raise ConfigurationError(
            f"{where}: has {num_bytes:,} bytes, and a file of a data set may have {LARGEST_FILE:,}; remove it"
        )
