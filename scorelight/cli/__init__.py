"""The command line: ``scorelight fit | validate | sample | configs``."""

from scorelight.cli.main import main

__all__ = ["main"]
