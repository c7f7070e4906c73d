"""The classes that a file may name.

A checkpoint is plain data, but it names the classes that the model is built from. `locate` imports a class
only from scorelight, from torch.optim and from the packages that the user trusts, and returns it only if it
is defined in one of them: a name that such a module has imported from elsewhere, as torch has ``os``, is
refused, and so is everything that is not a class.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from scorelight.errors import ConfigurationError

__all__ = ["locate", "packages_named", "trust", "trusted_packages"]

_OWN = frozenset(
    {
        "scorelight",
        "torch.optim",
        "lightning.pytorch.callbacks",
        "lightning.pytorch.cli",  # its ReduceLROnPlateau, which has the name of the quantity that it monitors
        "lightning.pytorch.loggers",
        "lightning.pytorch.strategies",
    }
)
_trusted: set[str] = set()


def trust(*packages: str) -> None:
    """Let checkpoints name classes of these packages, until the program ends.

    On the command line it is ``--trust PACKAGE``.
    """
    _trusted.update(packages)


def trusted_packages() -> list[str]:
    """The packages that the user trusts."""
    return sorted(_trusted)


def locate(name: str, source: str | Path) -> type[Any]:
    """The class with this import path.

    Args:
        name: The path, such as ``scorelight.VPSDE``.
        source: The file that names it, for the message.

    Raises:
        ConfigurationError: If the module may not be imported, or if this is not a class that is defined in
            a module that may be.
    """
    parts = name.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise ConfigurationError(f"{source} names {name!r:.200}, which is no import path of a class")
    found = _member(parts, name, source)
    if not inspect.isclass(found):
        raise ConfigurationError(
            f"{source} names {name!r}, which is a {type(found).__name__}, not a class; "
            "only classes are built from a file"
        )
    if not _allowed(found.__module__):
        raise _untrusted(name, found.__module__, source)
    return found


def packages_named(*configurations: Any) -> set[str]:
    """Packages of the classes in configurations that a file may name only if the user trusts them."""
    modules = (path.rpartition(".")[0] for path in _class_paths(configurations))
    return {module.partition(".")[0] for module in modules if module and not _within(module, _OWN)}


def _class_paths(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(path := value.get("class_path"), str):
            yield path
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _class_paths(item)


def _member(parts: list[str], name: str, source: str | Path) -> Any:
    """What the path leads to: an attribute of a module, or of classes in a module."""
    module, depth = None, 0
    for end in range(len(parts) - 1, 0, -1):
        candidate = ".".join(parts[:end])
        if not _allowed(candidate):
            continue
        try:
            module, depth = import_module(candidate), end
            break
        except ModuleNotFoundError as error:
            if error.name is None or not (candidate + ".").startswith(error.name + "."):
                raise  # a module that the candidate itself needs
    if module is None:
        raise _untrusted(name, name.rpartition(".")[0], source)
    found: Any = module
    for part in parts[depth:]:
        present = part in vars(found) if inspect.isclass(found) else found is module and hasattr(found, part)
        if not present:
            raise ConfigurationError(f"{source} names {name!r}, which does not exist")
        found = vars(found)[part] if inspect.isclass(found) else getattr(found, part)
    return found


def _allowed(module: str) -> bool:
    return _within(module, _OWN | _trusted)


def _within(module: str, packages: frozenset[str] | set[str]) -> bool:
    """Whether the module is one of the packages, or inside one."""
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


def _untrusted(name: str, module: str, source: str | Path) -> ConfigurationError:
    package = module.partition(".")[0]
    defined = "" if f"{name}.".startswith(f"{module}.") else f", which is defined in {module}"
    return ConfigurationError(
        f"{source} names {name!r}{defined}, and building it would run code of {package!r}; if you trust it, "
        f"add --trust {package}, or in Python scorelight.trust({package!r})"
    )
