"""Images and labels in an .npz."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorelight.data.arrays import Arrays
from scorelight.data.reading import reading
from scorelight.errors import ConfigurationError

__all__ = ["as_labels", "npz_shape", "read_npz"]

_KEYS = {"images": "labels", "arr_0": "arr_1"}


def npz_shape(path: Path) -> tuple[int, ...]:
    """Shape of the images in an .npz, (N, C, H, W), from the first bytes of the array.

    Raises:
        ConfigurationError: If they are not 8-bit images.
    """
    with (
        reading(path, _MAKE_AGAIN),
        path.open("rb") as raw,
        np.load(raw, allow_pickle=False) as archive,
        archive.zip.open(f"{_key(path, archive.files)}.npy") as file,
    ):
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        version, _ = np.lib.format.read_magic(file)
        shape, _, dtype = read[version](file)
    return _checked(path, shape, dtype)


def read_npz(path: Path) -> Arrays:
    """Images and labels: ``images`` (N, H, W, C) or (N, H, W), uint8, and ``labels`` (N,), if there are any.

    The names that ADM uses, ``arr_0`` and ``arr_1``, work as well (Dhariwal & Nichol, 2021).

    Raises:
        ConfigurationError: If it holds anything else, or is corrupted.
    """
    with (
        reading(path, _MAKE_AGAIN),
        path.open("rb") as file,  # numpy leaves a corrupted file open
        np.load(file, allow_pickle=False) as archive,
    ):
        key = _key(path, archive.files)
        images = archive[key]
        labels = archive[_KEYS[key]] if _KEYS[key] in archive.files else None
    shape = _checked(path, images.shape, images.dtype)
    x = torch.from_numpy(images).reshape(shape[0], *shape[2:], shape[1]).permute(0, 3, 1, 2).contiguous()
    return Arrays(x, {} if labels is None else {"label": as_labels(path, labels, len(x))})


_MAKE_AGAIN = "write it again with numpy.savez(FILE, images=..., labels=...)"


def _key(path: Path, names: list[str]) -> str:
    for key in _KEYS:
        if key in names:
            return key
    raise ConfigurationError(f"{path}: holds {', '.join(names) or 'nothing'}; images (or arr_0) is needed")


def _checked(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, ...]:
    """(N, C, H, W) of (N, H, W, C) or (N, H, W)."""
    if dtype != np.uint8:
        remedy = "(255 * images).round().astype('uint8') if they lie in [0, 1] and none is NaN"
        raise ConfigurationError(f"{path}: images are {dtype}; uint8, 0 to 255, is needed: {remedy}")
    num, *size = shape if len(shape) == 4 else (*shape, 1)
    if len(size) != 3 or size[2] not in (1, 3):
        raise ConfigurationError(
            f"{path}: images have shape {shape}; (N, H, W, 3), (N, H, W, 1) or (N, H, W) is needed"
        )
    if 0 in shape:
        raise ConfigurationError(f"{path}: holds no image: shape {shape}")
    return num, size[2], size[0], size[1]


def as_labels(path: Path, labels: Any, num: int) -> Tensor:
    """Class labels, shape (num,), int64.

    Raises:
        ConfigurationError: If they are anything but one non-negative integer for each image.
    """
    array = np.asarray(labels)
    if array.shape != (num,) or array.dtype.kind not in "iu":
        raise ConfigurationError(
            f"{path}: labels have shape {array.shape} and type {array.dtype}; {num} whole numbers are "
            "needed, one for each image"
        )
    if array.min() < 0:
        raise ConfigurationError(f"{path}: a label is {array.min()}; labels start from 0")
    return torch.from_numpy(array.astype(np.int64))
