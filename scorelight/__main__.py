"""Entry point of ``scorelight`` and ``python -m scorelight``."""

from __future__ import annotations

import sys

from scorelight.cli import main

if __name__ == "__main__":
    sys.exit(main())
