"""Everything that a result depends on, as plain data: the key under which it is kept."""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import types
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scorelight.storage.component import Component, class_path
from scorelight.storage.source import is_known, source_digest

__all__ = ["code_of", "describe", "weights_digest"]

_PLAIN = bool | int | float | str | None
_NAMED = np.generic | bytes | Path | enum.Enum | complex | torch.dtype | torch.device


def describe(value: Any) -> Any:
    """Plain data that differs wherever the value does: for the key of a cache, not to build it again.

    A component is its class, its arguments and its weights, if it has some; a class that is not scorelight's
    its path and its code; a function its code and what it refers to; a tensor its content; and any other
    object its class and its attributes.
    """
    return _Description().of(value)


class _Description:
    """Remembers what it is in the middle of, and the objects that it has described."""

    def __init__(self) -> None:
        self.inside: list[Any] = []
        self.seen: list[Any] = []

    def of(self, value: Any) -> Any:
        """What `describe` returns."""
        if isinstance(value, _PLAIN):
            return value
        if any(value is outer for outer in self.inside):
            return "contains itself"
        self.inside.append(value)
        try:
            return self._of_container(value)
        finally:
            self.inside.pop()

    def _of_container(self, value: Any) -> Any:
        if isinstance(value, Component):
            weights = self._weights(value) if isinstance(value, nn.Module) else {}
            return self.of(type(value)) | {"init_args": self.of(value._init_args)} | weights
        if isinstance(value, type):
            code = code_of(value)
            return {"class_path": class_path(value)} | ({"code": code} if code else {})
        if isinstance(value, Mapping):
            return {str(k): self.of(v) for k, v in value.items()}
        if isinstance(value, Set):
            return sorted(str(self.of(v)) for v in value)
        if isinstance(value, Sequence) and not isinstance(value, bytes):
            return [self.of(v) for v in value]
        return self._of_function(value) if callable(value) else self._of_object(value)

    def _weights(self, module: nn.Module) -> dict[str, str]:
        """The digest of the weights, unless the module is an argument of another, which has them."""
        inner = any(isinstance(outer, nn.Module) for outer in self.inside[:-1])
        return {} if inner else {"weights": weights_digest(module)}

    def _of_function(self, value: Any) -> Any:
        if isinstance(value, functools.partial):
            return {"partial": self.of([value.func, value.args, value.keywords])}
        if isinstance(value, types.MethodType):
            return {"method": self.of([value.__self__, value.__func__])}
        if isinstance(value, types.FunctionType):
            code = [source_digest([value.__module__]), _compiled(value.__code__)]
            bound = [value.__defaults__, value.__kwdefaults__, *map(_enclosed, value.__closure__ or ())]
            return {
                "function": value.__qualname__,
                "code": _digest(repr(code).encode()),
                "bound": self.of(bound),
            }
        if isinstance(value, types.BuiltinFunctionType):
            return f"{value.__module__}.{value.__qualname__}"
        return self._of_object(value)

    def _of_object(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return _digest(repr((value.dtype, value.shape)).encode() + _bytes(value))
        if isinstance(value, np.ndarray):
            return _digest(repr((value.dtype, value.shape)).encode() + np.ascontiguousarray(value).tobytes())
        text = repr(value)
        if isinstance(value, _NAMED):
            return f"{class_path(type(value))} {text}"
        for place, known in enumerate(self.seen):
            if value is known:
                return f"object {place}"
        self.seen.append(value)
        state = {k: v for k, v in getattr(value, "__dict__", {}).items() if k != "training"}
        named = {} if " at 0x" in text else {"text": text}
        return self.of(type(value)) | {"state": self.of(state)} | named


def weights_digest(module: nn.Module, text: str = "") -> str:
    """A digest of the weights of a module, in float32, and a text: twelve hexadecimal digits."""
    digest = hashlib.sha256(text.encode())
    for name, value in sorted(module.state_dict().items()):
        value = value.float() if value.is_floating_point() else value
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(_bytes(value))
    return digest.hexdigest()[:12]


def code_of(cls: type) -> str:
    """A digest of the code of a class and of its bases that are not known (`is_known`); "" if all are.

    It covers their source files and those that these import, and, for classes without a file or made by a
    function, their functions and plain attributes.
    """
    own = [base for base in cls.__mro__ if not is_known(base.__module__)]
    if not own:
        return ""
    members = [[base.__qualname__, _members(base)] for base in own]
    return _digest(repr([source_digest(base.__module__ for base in own), members]).encode())


def _members(cls: type) -> list[Any]:
    """Functions, with the plain values that they enclose, and plain attributes of a class."""
    found: list[Any] = []
    for name, value in sorted(vars(cls).items()):
        value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        value = inspect.unwrap(value) if callable(value) else value
        if isinstance(value, types.FunctionType):
            enclosed = [v for v in map(_enclosed, value.__closure__ or ()) if isinstance(v, _PLAIN)]
            found.append([name, _compiled(value.__code__), enclosed])
        elif isinstance(value, _PLAIN) and name not in ("__doc__", "__firstlineno__"):
            found.append([name, value])
    return found


def _compiled(code: types.CodeType) -> list[Any]:
    """Compiled code as plain data, the same in every process."""
    return [code.co_code.hex(), code.co_names, code.co_varnames, [_constant(c) for c in code.co_consts]]


def _constant(value: Any) -> Any:
    if isinstance(value, types.CodeType):
        return _compiled(value)
    return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)


def _enclosed(cell: types.CellType) -> Any:
    """What a function has from the one around it; nothing if that has not assigned it yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _bytes(tensor: Tensor) -> bytes:
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return content.numpy().tobytes()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
