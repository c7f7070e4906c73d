"""How much memory data may take: sizes are checked before anything is decompressed."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from scorelight.errors import ConfigurationError

__all__ = [
    "LARGEST_FILE",
    "available_memory",
    "check_file_size",
    "check_memory",
    "peak_memory",
    "total_memory",
]

LARGEST_FILE = 2**28
"""Bytes that an image file or a list of labels may have, 256 MiB."""

_CONTROL_GROUP = Path("/sys/fs/cgroup/memory.max")
_USED = Path("/sys/fs/cgroup/memory.current")
_USES = Path("/sys/fs/cgroup/memory.stat")
_SYSTEM = Path("/proc/meminfo")


def total_memory() -> int | None:
    """Bytes of memory that this process may use at most; None where the system does not tell."""
    limits = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError, ValueError):  # no control group, or the word "max"
        limits.append(int(_CONTROL_GROUP.read_text()))
    return min((limit for limit in limits if limit > 0), default=None)


def available_memory() -> int | None:
    """Bytes of memory that nothing uses now but copies of files; None where the system does not tell."""
    free = []
    with contextlib.suppress(OSError, ValueError, KeyError):
        free.append(1024 * _entries(_SYSTEM)["MemAvailable:"])
    with contextlib.suppress(OSError, ValueError, KeyError):
        used = int(_USED.read_text()) - _entries(_USES)["inactive_file"]
        free.append(int(_CONTROL_GROUP.read_text()) - used)
    return max(min(free), 0) if free else None


def _entries(file: Path) -> dict[str, int]:
    """The numbers of a file of the kernel's by their names, one a line."""
    return {words[0]: int(words[1]) for line in file.read_text().splitlines() if (words := line.split())[1:]}


def peak_memory() -> int:
    """Bytes of memory that this process has used at most until now; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


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
