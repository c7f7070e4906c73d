"""Entry point of ``scorelight`` and ``python -m scorelight``."""

from __future__ import annotations

import signal
import sys

from scorelight import cli
from scorelight.cli.tuning import keep_freed_memory, limit_openmp_spinning

__all__ = ["main"]


def main() -> int:
    """Run the command line in a process of its own and return its exit code."""
    limit_openmp_spinning()
    keep_freed_memory()
    try:
        return cli.main()
    finally:  # what is left is the exit of the interpreter, in which Ctrl-C would print a traceback
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
