"""Class labels: whole numbers from 0, one for each example."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorelight.errors import ConfigurationError

__all__ = ["DIGITS", "as_labels", "count_classes"]

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_LARGEST = 1_000_000


def as_labels(where: object, labels: Any, num: int) -> Tensor:
    """Class labels, shape (num,), int64.

    Args:
        where: The file that they are from, for the message.
        labels: An array or a list.
        num: Number of examples.

    Raises:
        ConfigurationError: If they are anything but one whole number from 0 to a million for each example.
    """
    array = np.asarray(labels)
    mixed = isinstance(labels, list) and any(isinstance(label, bool) for label in labels)
    if array.shape != (num,) or array.dtype.kind not in "iu" or mixed:
        kind = "bool" if mixed else array.dtype
        raise ConfigurationError(
            f"{where}: labels have shape {array.shape} and type {kind}; {num} whole numbers are "
            "needed, one for each image"
        )
    if array.min() < 0:
        raise ConfigurationError(f"{where}: a label is {array.min()}; labels start from 0")
    if array.max() > _LARGEST:
        raise ConfigurationError(
            f"{where}: a label is {array.max()}; number the classes from 0, without gaps (at most {_LARGEST})"
        )
    return torch.from_numpy(array.astype(np.int64))


def count_classes(labels: Tensor | None, where: object) -> int | None:
    """Number of classes of labels 0, 1, ..., of which each occurs; None without labels.

    Args:
        labels: Labels of all examples, shape (N,).
        where: The data, for the message.

    Raises:
        ConfigurationError: If a label is left out. A network would never be trained for it.
    """
    if labels is None:
        return None
    counts = torch.bincount(labels)
    if missing := (counts == 0).nonzero().flatten().tolist():
        raise ConfigurationError(
            f"{where}: labels are from {int(labels.min())} to {int(labels.max())}, and no image has "
            f"label {missing[0]}; number the classes from 0, without gaps"
        )
    return len(counts)
