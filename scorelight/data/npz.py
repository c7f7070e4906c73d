"""Images and labels in an .npz."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from scorelight.data.arrays import Arrays
from scorelight.data.labels import as_labels
from scorelight.data.reading import reading
from scorelight.errors import ConfigurationError
from scorelight.storage.memory import check_memory
from scorelight.storage.npz import Header, opened_npz

__all__ = ["npz_labels", "npz_shape", "read_npz"]

_IMAGES, _LABELS = ("images", "arr_0"), ("labels", "arr_1")
_MAKE_AGAIN = "write it again with numpy.savez(FILE, images=..., labels=...)"


def npz_shape(path: Path) -> tuple[int, ...]:
    """Shape of the images in an .npz, (N, C, H, W), from the first bytes of the array.

    Raises:
        ConfigurationError: If they are not 8-bit images.
    """
    with _opened(path) as (_, headers):
        return _checked(path, headers[_images_key(path, headers)])


def npz_labels(path: Path) -> Tensor | None:
    """The labels in an .npz alone, shape (N,), if there are any.

    Raises:
        ConfigurationError: As `read_npz`.
    """
    with _opened(path) as (archive, headers):
        num = _checked(path, headers[_images_key(path, headers)])[0]
        return _labels(path, archive, headers, num)


def read_npz(path: Path) -> Arrays:
    """Images and labels: ``images`` (N, H, W, C) or (N, H, W), uint8, and ``labels`` (N,), if there are any.

    The names that ADM uses, ``arr_0`` and ``arr_1``, work as well (Dhariwal & Nichol, 2021).

    Raises:
        ConfigurationError: If it holds anything else, is corrupted, or takes more memory than there is.
    """
    with _opened(path) as (archive, headers):
        key = _images_key(path, headers)
        num, channels, height, width = _checked(path, headers[key])
        labels = _labels(path, archive, headers, num)
        check_memory(path, 2 * headers[key].num_bytes, "keep the images in a folder or a zip instead")
        images = torch.from_numpy(archive[key]).reshape(num, height, width, channels)
    x = images.permute(0, 3, 1, 2).contiguous()
    return Arrays(x, {} if labels is None else {"label": labels})


@contextmanager
def _opened(path: Path) -> Iterator[tuple[NpzFile, dict[str, Header]]]:
    with reading(path, _MAKE_AGAIN), opened_npz(path) as (archive, headers):
        yield archive, headers


def _images_key(path: Path, headers: Mapping[str, Header]) -> str:
    key = _one_of(path, headers, _IMAGES)
    if key is None:
        raise ConfigurationError(
            f"{path}: holds {', '.join(headers) or 'nothing'}; images (or arr_0) is needed"
        )
    return key


def _labels(path: Path, archive: NpzFile, headers: Mapping[str, Header], num: int) -> Tensor | None:
    key = _one_of(path, headers, _LABELS)
    if key is not None:
        if headers[key].shape != (num,):
            raise ConfigurationError(
                f"{path}: {key} have shape {headers[key].shape} and type {headers[key].dtype}; {num} whole "
                "numbers are needed, one for each image"
            )
        check_memory(path, headers[key].num_bytes, "take fewer images")
        return as_labels(path, archive[key], num)
    if other := next((name for name, header in headers.items() if header.shape == (num,)), None):
        raise ConfigurationError(
            f"{path}: {other} has one number for each image; if they are labels, name it labels, otherwise "
            "leave it out"
        )
    return None


def _one_of(path: Path, headers: Mapping[str, Header], keys: tuple[str, ...]) -> str | None:
    """The key that is there, if one is."""
    found = [key for key in keys if key in headers]
    if len(found) > 1:
        raise ConfigurationError(f"{path}: holds both {' and '.join(found)}; leave one out")
    return found[0] if found else None


def _checked(path: Path, header: Header) -> tuple[int, int, int, int]:
    """(N, C, H, W) of (N, H, W, C) or (N, H, W)."""
    shape, dtype = header
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
