"""Images from a folder, a zip or an .npz."""

from __future__ import annotations

import math
import os
from functools import cached_property
from pathlib import Path

import torch
from torchvision.transforms.functional import to_pil_image

from scorelight.data.arrays import Arrays, Examples, split
from scorelight.data.base import EightBitDataModule
from scorelight.data.image_files import REPLACE, ImageFiles
from scorelight.data.image_labels import class_folders, labels_of
from scorelight.data.image_sources import IMAGE_ENDINGS, Folder, Source, Zip, is_image
from scorelight.data.image_transform import (
    ImageTransform,
    is_grey,
    open_image,
    oriented_size,
    transform_for,
)
from scorelight.data.labels import count_classes
from scorelight.data.npz import npz_labels, npz_shape, read_npz
from scorelight.data.reading import as_path, progress, reading
from scorelight.errors import ConfigurationError
from scorelight.storage.memory import check_memory

__all__ = ["ImageDataModule"]

_IN_MEMORY = 2 * 2**30
"""Bytes of decoded images, 2 GiB, up to which they are kept in memory by default."""
_MOST = {"image_size": 2**20, "num_workers": 256}


class ImageDataModule(EightBitDataModule):
    """Images from a folder, a zip or an .npz, of shape (C, H, W) and in [−1, 1], some kept for validation.

    A folder or a zip holds images, and no labels; or a folder for each class, whose labels are counted from 0
    in sorted order; or images in any folders and a ``dataset.json`` ``{"labels": [[name, label], ...]}``, as
    StyleGAN and EDM have it. All of this may be inside of one more folder. Links are followed; one that leads
    back into the data set, or to a folder around it, is left out. An .npz holds ``images`` (N, H, W, C),
    uint8, and perhaps ``labels`` (N,); the names of ADM, ``arr_0`` and ``arr_1``, work as well. The first
    image, whose header is read at once, determines whether there is colour and, without `image_size`, the
    size of all images. The orientation in EXIF is applied.

    Args:
        path: Folder, .zip or .npz.
        image_size: Height and width of all images: the short side is resized by Pillow's antialiased Lanczos
            filter, the long one cropped at the centre (default: unchanged, all of one size).
        batch_size: Training examples per step and process.
        val_batch_size: Validation examples per step and process.
        val_fraction: Share of the images kept for validation.
        grayscale: Convert all images to one grey channel.
        flip: Mirror half of the images left to right, in training only, at random for each image and epoch.
        in_memory: Decode all images before training, or (false) each when it is needed, a few batches ahead
            (default: before training, if they take at most 2 GiB). An .npz is always in memory.
        num_workers: Threads that decode (default: the number of cores, at most 8).
        seed: Seed of the split; the order of training is that of `seed_everything` as well.
    """

    def __init__(
        self,
        path: str | Path,
        image_size: int | None = None,
        batch_size: int = 64,
        val_batch_size: int = 256,
        val_fraction: float = 0.1,
        grayscale: bool = False,
        flip: bool = False,
        in_memory: bool | None = None,
        num_workers: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, val_batch_size, seed, flip)
        for name, value in (("image_size", image_size), ("num_workers", num_workers)):
            if value is not None and not 1 <= value <= _MOST[name]:
                raise ConfigurationError(
                    f"data.{name}={value}: must be at least 1 and at most {_MOST[name]:,}"
                )
        self.path = as_path("data.path", path)
        self.val_fraction = val_fraction
        self.in_memory = in_memory
        self.num_workers = num_workers or min(os.cpu_count() or 1, 8)
        self.transform = self._transform(image_size, grayscale)
        self.shape = self.transform.shape

    def arrays(self) -> tuple[Examples, Examples]:
        """Split the images; decode them, or check that they can be decoded."""
        files = self.all_images()
        if not isinstance(files, ImageFiles):
            return split(files, self.val_fraction, self.seed)
        train, val = split(files, self.val_fraction, self.seed)
        if self.in_memory or (self.in_memory is None and files.num_bytes <= _IN_MEMORY):
            return train.load(), val.load()
        files.check()
        return train, val

    def all_images(self) -> Arrays | ImageFiles:
        """Every image, in the order of their names or of the .npz; files are decoded when asked for."""
        if _is_npz(self.path):
            return _prepared(read_npz(self.path), self.transform, self.path)
        source = _source(self.path)
        found = list(source.files())
        names, labels = list(filter(is_image, found)), labels_of(source, found)
        return ImageFiles(source, names, labels, self.transform, self.num_workers)

    @cached_property
    def num_classes(self) -> int | None:
        """Number of classes, read off the labels; None without labels.

        Raises:
            ConfigurationError: If labels do not count from 0, or leave a class out.
        """
        if _is_npz(self.path):
            return count_classes(npz_labels(self.path), self.path)
        source = _source(self.path)
        return count_classes(labels_of(source, list(source.files())), self.path)

    @cached_property
    def class_names(self) -> list[str] | None:  # type: ignore[override]
        """Names of the folders of the classes; None if labels come from elsewhere."""
        if _is_npz(self.path):
            return None
        source = _source(self.path)
        return class_folders(source, list(source.files()))

    def _transform(self, image_size: int | None, grayscale: bool) -> ImageTransform:
        if _is_npz(self.path):
            _, channels, height, width = npz_shape(self.path)
            return transform_for((width, height), channels == 1, image_size, grayscale)
        source = _source(self.path)
        name = next(filter(is_image, source.files()), None)
        if name is None:
            raise ConfigurationError(
                f"data.path={self.path}: no image in there; names of images end in {', '.join(IMAGE_ENDINGS)}"
            )
        where = source.where(name)
        with reading(where, REPLACE), source.open(name) as file, open_image(file) as image:
            transform = transform_for(oriented_size(image), is_grey(image), image_size, grayscale)
            transform.check(image, where)
        return transform

    def _name(self) -> str:
        return self.path.stem


def _is_npz(path: Path) -> bool:
    return path.suffix.lower() == ".npz"


def _source(path: Path) -> Source:
    if path.is_dir():
        return Folder(path)
    if path.suffix.lower() == ".zip":
        return Zip(path)
    raise ConfigurationError(f"data.path={path}: a folder, a .zip or an .npz is needed")


def _prepared(arrays: Arrays, transform: ImageTransform, path: Path) -> Arrays:
    """Arrays of the transform's shape."""
    if arrays.x.shape[1:] == transform.shape:
        return arrays
    num_bytes = len(arrays) * math.prod(transform.shape)
    check_memory(path, num_bytes, "choose a smaller data.image_size")
    x = torch.empty(len(arrays), *transform.shape, dtype=torch.uint8)
    for i in progress(range(len(arrays)), len(arrays), f"resizing {path.name}"):
        x[i] = torch.from_numpy(transform(to_pil_image(arrays.x[i]), f"{path}, image {i}"))
    return Arrays(x, arrays.cond)
