"""Conditions of examples: which labels are classes, and conditions that are dropped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scorelight.errors import ConfigurationError

__all__ = ["NO_CLASS", "check_label_type", "check_labels", "class_rows", "drop_conditions"]

NO_CLASS = torch.iinfo(torch.int64).min
"""The label of an example without a class. No data have it, so that no label can be mistaken for it."""


def drop_conditions(cond: Mapping[str, Any], drop: Tensor) -> dict[str, Any]:
    """The conditions, replaced by "none" for the examples with `drop`, shape (B,).

    For a ``label``, "none" is `NO_CLASS`; for any other condition it is zero.
    """

    def dropped(name: str, value: Any) -> Any:
        if value is None:
            return None
        value = _as_tensor(value, drop.device, name)
        mask = drop.to(value.device).reshape(-1, *(1,) * (value.ndim - 1))
        if name != "label":
            return torch.where(mask, torch.zeros_like(value), value)
        value = value.long() if _is_integer(value) else value
        return torch.where(mask, torch.full_like(value, NO_CLASS), value)

    return {name: dropped(name, value) for name, value in cond.items()}


def class_rows(label: Any, num_classes: int, x: Tensor) -> Tensor:
    """Rows of an embedding of num_classes + 1 rows, the last of them for no class; shape (B,), int64.

    On CUDA, where reading a label would wait for all that runs, a label that is no class becomes −1, at which
    the embedding stops the program.

    Args:
        label: Classes 0 to num_classes − 1, or `NO_CLASS`, shape (B,); or one for all examples.
        num_classes: Number of classes.
        x: The examples, shape (B, ...).

    Raises:
        ConfigurationError: If a label is none of these.
    """
    label = _as_tensor(label, x.device, "label")
    if label.ndim == 0:
        label = label.expand(len(x))
    check_label_type(label, len(x), "label")
    label = label.long()
    none, known = label == NO_CLASS, (label >= 0) & (label < num_classes)
    if label.device.type not in ("cuda", "meta") and not (none | known).all():
        _refuse(label[~(none | known)], num_classes, "label")
    return torch.where(none, num_classes, torch.where(known, label, -1))


def check_labels(label: Any, num_classes: int, what: str) -> Tensor:
    """Refuse labels of data that are no classes.

    Args:
        label: Should have the shape (N,), and classes 0 to num_classes − 1.
        num_classes: Number of classes.
        what: How the message names them.

    Returns:
        The labels.

    Raises:
        ConfigurationError: If they are of another type or shape, or one is no class.
    """
    found = _as_tensor(label, None, what)
    check_label_type(found, len(found), what)
    wrong = (found < 0) | (found >= num_classes)
    if wrong.any():
        _refuse(found[wrong], num_classes, what)
    return found


def _as_tensor(value: Any, device: torch.device | None, what: str) -> Tensor:
    """The tensor, or a number or a list as one."""
    if isinstance(value, Tensor):
        return value
    try:
        return torch.as_tensor(value, device=device)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ConfigurationError(f"{what}: {value!r:.50} is no tensor of numbers; give it one") from error


def _is_integer(value: Tensor) -> bool:
    return not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)


def check_label_type(label: Tensor, size: int, what: str) -> None:
    """Refuse labels that are not one whole number for each example.

    Args:
        label: Should have the shape (N,).
        size: Number of examples, N.
        what: How the message names them.

    Raises:
        ConfigurationError: If they have another shape, or are no integers.
    """
    if label.shape != (size,) or not _is_integer(label):
        raise ConfigurationError(
            f"{what} has shape {tuple(label.shape)} and type {label.dtype}; one whole number for each "
            f"example, shape ({size},), is needed"
        )


def _refuse(wrong: Tensor, num_classes: int, what: str) -> None:
    raise ConfigurationError(
        f"{what} {int(wrong[0])} is no class of the network, which has num_classes={num_classes}, counted "
        f"from 0 to {num_classes - 1}; correct the labels, or num_classes"
    )
