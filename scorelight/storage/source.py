"""Digests of source files: a result that is kept belongs to the code that computed it."""

from __future__ import annotations

import ast
import hashlib
import sys
import sysconfig
import types
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import scorelight

__all__ = ["code_digest", "is_known", "own_code", "source_digest"]

_KNOWN = {"scorelight", "torch", "lightning", "numpy", "builtins"}
_FILES = ("scorelight.storage.", "scorelight.errors")
_INSTALLED = [Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")]


@cache
def own_code() -> str:
    """A digest of all files of scorelight: by its version alone, an edited clone could not be told apart."""
    root = Path(scorelight.__file__).parent
    digest = hashlib.sha256(scorelight.__version__.encode())
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def is_known(module: str) -> bool:
    """Whether a module belongs to scorelight, torch, Lightning, NumPy or Python, whose versions are known."""
    package = module.partition(".")[0]
    return package in _KNOWN or package in sys.stdlib_module_names


def source_digest(modules: Iterable[str]) -> str:
    """A digest of the files of modules, and of the modules that these import, and so on.

    Of those that they import, known ones (`is_known`) and installed ones of other packages are left out.

    Args:
        modules: Names of modules that are imported.
    """
    roots = list(modules)
    packages = {root.partition(".")[0] for root in roots}

    def counts(name: str, module: types.ModuleType) -> bool:
        return not is_known(name) and (name.partition(".")[0] in packages or not _is_installed(module))

    digest = hashlib.sha256()
    for name in _reachable(roots, counts):
        digest.update(name.encode() + _content(sys.modules[name]))
    return digest.hexdigest()[:16]


def code_digest(classes: Iterable[type]) -> str:
    """A digest of the code that classes use: of their modules, those that these import, and so on.

    Modules of scorelight are among them, unlike in `source_digest`, except those that only read and write
    files; packages that are installed are not. Comments and docstrings do not count.
    """
    digest = hashlib.sha256()
    for name in _reachable([base.__module__ for cls in classes for base in cls.__mro__], _counts):
        digest.update(f"{name}\n{_statements(_content(sys.modules[name]))}\n".encode())
    return digest.hexdigest()[:16]


def _counts(name: str, module: types.ModuleType) -> bool:
    """Whether the code of a module can change a number."""
    if name.startswith("scorelight."):
        return not hasattr(module, "__path__") and not name.startswith(_FILES)
    return not is_known(name) and not _is_installed(module)


@cache
def _statements(source: bytes) -> str:
    """The code of a file without comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [n for n in node.body if not _is_text(n)] or [ast.Pass()]
    return ast.unparse(tree)


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _reachable(left: list[str], counts: Callable[[str, types.ModuleType], bool]) -> list[str]:
    """The modules that count, and those of the modules that they import, and so on, by name."""
    found: set[str] = set()
    while left:
        name, *left = left
        module = sys.modules.get(name)
        if name not in found and module and counts(name, module):
            found.add(name)
            left += _imported(module)
    return sorted(found)


def _imported(module: types.ModuleType) -> Iterator[str]:
    """Names of the modules that the global names of a module are, or come from."""
    for value in [*vars(module).values()]:
        name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
        if isinstance(name, str):
            yield name


def _is_installed(module: types.ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and any(Path(file).resolve().is_relative_to(place) for place in _INSTALLED)


def _content(module: types.ModuleType) -> bytes:
    """The content of the file of a module; nothing if there is none, as for a notebook."""
    file = getattr(module, "__file__", None)
    try:
        return Path(file).read_bytes() if file else b""
    except OSError:
        return b""
