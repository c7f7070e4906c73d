"""The command line: one file for each command, which `main` imports when the command is called."""

from scorelight.cli.main import main

__all__ = ["main"]
