"""The packages whose code a checkpoint may import.

A checkpoint is plain data, but it names the classes that the model is built from, and building the model
imports them, which runs code. Only scorelight, torch and what the user names are imported.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scorelight.errors import ConfigurationError

__all__ = ["check_trusted", "import_paths", "third_party_packages", "trust"]

_OWN = {"scorelight", "torch"}
_trusted = set(_OWN)
_LIGHTNING = {"lightning.pytorch.cli.instantiate_module", "lightning.pytorch.cli.ReduceLROnPlateau"}


def trust(*packages: str) -> None:
    """Let checkpoints name classes and functions of these top-level packages, until the program ends.

    On the command line it is ``--trust PACKAGE``.
    """
    _trusted.update(packages)


def check_trusted(configuration: Any, path: Path) -> None:
    """Refuse a checkpoint's configuration that would import untrusted code.

    Args:
        configuration: The checkpoint, or the part of it from which objects will be built.
        path: The checkpoint's file, for the message.

    Raises:
        ConfigurationError: If it names an untrusted package.
    """
    for package, name in third_party_packages(configuration).items():
        if package not in _trusted:
            raise ConfigurationError(
                f"{path} names {name!r}, and building the model would run code of {package!r}; if you trust "
                f"it, add --trust {package}, or in Python scorelight.trust({package!r})"
            )


def third_party_packages(*configurations: Any) -> dict[str, str]:
    """Installed packages that are named, other than scorelight and torch, each with one of its names."""
    names = {
        name.partition(".")[0]: name for name in import_paths(list(configurations)) if name not in _LIGHTNING
    }
    return {package: name for package, name in names.items() if package not in _OWN and _exists(package)}


def import_paths(value: Any) -> Iterator[str]:
    """Every string that could be an import path."""
    if isinstance(value, str):
        if _PATH.fullmatch(value):
            yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from import_paths(key)
            yield from import_paths(item)
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from import_paths(item)


_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def _exists(package: str) -> bool:
    """Whether the package can be imported; runs none of its code."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return True
