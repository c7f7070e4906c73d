"""Images that are decoded as they are needed, by threads that read a few batches ahead."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import IO, NamedTuple, Self

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from scorelight.batch import Batch
from scorelight.data.arrays import Arrays, Examples
from scorelight.data.image_sources import Source
from scorelight.data.reading import progress, reading
from scorelight.errors import ConfigurationError

__all__ = ["REPLACE", "ImageFiles", "ImageTransform", "is_grey", "open_image", "transform_for"]

REPLACE = "replace the file, or remove it"
_AHEAD = 3
_CHUNK = 256
_ENDS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}
"""The last bytes of a complete file, by format; a few may follow."""


@dataclass(frozen=True, slots=True)
class ImageTransform:
    """From the content of a file to an example of shape (C, H, W), uint8.

    To a given size, the short side is resized by Pillow's antialiased Lanczos filter, and the long one is
    cropped at the centre. The orientation in EXIF is ignored.
    """

    channels: int
    height: int
    width: int
    resize: bool
    grayscale: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an example."""
        return self.channels, self.height, self.width

    def check(self, image: Image.Image, where: str) -> None:
        """Raise, by the header alone, if an image would not become an example.

        Raises:
            ConfigurationError: If it has 16 bits, colour that is not wanted, or another size.
        """
        if image.mode in ("I", "F") or ";" in image.mode:
            raise ConfigurationError(f"{where}: more than 8 bits a channel ({image.mode}); convert it to 8")
        if self.channels == 1 and not self.grayscale and not is_grey(image):
            raise ConfigurationError(
                f"{where}: has colour ({image.mode}), and the first image has not; set data.grayscale to "
                "true, or convert that one to RGB"
            )
        if not self.resize and image.size != (self.width, self.height):
            raise ConfigurationError(
                f"{where}: {image.width}x{image.height} pixels, and the first image has "
                f"{self.width}x{self.height}; set data.image_size"
            )

    def __call__(self, image: Image.Image, where: str) -> np.ndarray:
        """The example.

        Raises:
            ConfigurationError: As `check`; or if a pixel is transparent.
        """
        self.check(image, where)
        if _may_be_transparent(image) and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
            raise ConfigurationError(f"{where}: has transparent pixels; put a background behind them")
        image = image.convert("L" if self.channels == 1 else "RGB")
        if self.resize and image.size != (self.width, self.height):
            image = ImageOps.fit(image, (self.width, self.height), Image.Resampling.LANCZOS)
        return np.array(image).reshape(self.height, self.width, self.channels).transpose(2, 0, 1)


def open_image(file: IO[bytes]) -> Image.Image:
    """An image of which the header has been read; to be used in a block that is `reading`."""
    try:
        return Image.open(file)
    except UnidentifiedImageError as error:
        raise ValueError("it is no image") from error  # Pillow's own message has the address of a buffer


def transform_for(
    size: tuple[int, int], grey: bool, image_size: int | None, grayscale: bool
) -> ImageTransform:
    """The transform of a set whose first image has that width and height, and is grey or has colour."""
    width, height = (image_size, image_size) if image_size else size
    return ImageTransform(1 if grayscale or grey else 3, height, width, image_size is not None, grayscale)


def is_grey(image: Image.Image) -> bool:
    """Whether an image has a single channel of light."""
    return image.mode in ("1", "L", "LA", "La")


def _may_be_transparent(image: Image.Image) -> bool:
    return image.has_transparency_data


class _Reading(NamedTuple):
    """A batch that threads are filling in."""

    batch: Batch
    parts: list[Future[None]]

    def result(self) -> Batch:
        for part in self.parts:
            part.result()
        return self.batch


class ImageFiles(Examples):
    """Images in files, decoded as they are needed.

    Args:
        source: Where they are.
        names: Their names.
        labels: Their labels, shape (N,), if they have any.
        transform: How to make examples of them.
        num_workers: Threads that decode.
    """

    def __init__(
        self,
        source: Source,
        names: Sequence[str],
        labels: Tensor | None,
        transform: ImageTransform,
        num_workers: int,
    ) -> None:
        self.source = source
        self.names = names
        self.labels = labels
        self.transform = transform
        self.num_workers = num_workers

    def __len__(self) -> int:
        """Number of images."""
        return len(self.names)

    @property
    def num_bytes(self) -> int:
        """Memory that all of them take, decoded."""
        return len(self) * self.transform.channels * self.transform.height * self.transform.width

    def select(self, index: Tensor) -> Self:
        """The set of the images at the given positions alone."""
        names = [self.names[i] for i in index.tolist()]
        labels = None if self.labels is None else self.labels[index]
        return type(self)(self.source, names, labels, self.transform, self.num_workers)

    def batch(self, index: Tensor) -> Batch:
        """Decode the images at the given positions."""
        (batch,) = self.batches([index])
        return batch

    def batches(self, indices: Iterable[Tensor]) -> Iterator[Batch]:
        """Decode batches in turn, a few of them ahead of what is asked for."""
        ahead: deque[_Reading] = deque()
        pool = ThreadPoolExecutor(self.num_workers)
        try:
            for index in indices:
                ahead.append(self._start(pool, index))
                if len(ahead) > _AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def load(self) -> Arrays:
        """All of them in memory."""
        pieces = torch.split(torch.arange(len(self)), _CHUNK)
        with reading(self.source.path, "set data.in_memory to false, or a smaller data.image_size"):
            x = torch.empty(len(self), *self.transform.shape, dtype=torch.uint8)
        for batch in progress(self.batches(pieces), len(pieces), f"reading {self.source.path.name}"):
            x[batch.indices] = batch.x0
        return Arrays(x, {} if self.labels is None else {"label": self.labels})

    def check(self) -> None:
        """Check each header and end; a file without its end, or one that may be transparent, is decoded.

        Raises:
            ConfigurationError: If one is no image, is cut off, or does not fit the others.
        """
        pieces = [self.names[i : i + _CHUNK] for i in range(0, len(self), _CHUNK)]
        with ThreadPoolExecutor(self.num_workers) as pool:
            done = pool.map(self._check, pieces)
            deque(progress(done, len(pieces), f"checking {self.source.path.name}"), maxlen=0)

    def all(self) -> Batch:
        """They are not in memory."""
        raise ConfigurationError(
            f"{self.source.path}: {len(self):,} images, {self.num_bytes / 2**30:.1f} GiB, are not kept in "
            "memory; to have all at once set data.in_memory to true, or choose what needs fewer (another "
            "objective; --max_examples)"
        )

    def digest(self) -> str:
        """SHA-256 of names, sizes, times or checksums, labels and transform."""
        found = hashlib.sha256(repr(self.transform).encode())
        for name in self.names:
            found.update(f"{name}\0{self.source.version_tag(name)}\0".encode())
        if self.labels is not None:
            found.update(self.labels.numpy().data)
        return found.hexdigest()[:16]

    def _start(self, pool: ThreadPoolExecutor, index: Tensor) -> _Reading:
        x = torch.empty(len(index), *self.transform.shape, dtype=torch.uint8)
        cond = {} if self.labels is None else {"label": self.labels[index]}
        share = -(-len(index) // self.num_workers)
        parts = [
            pool.submit(self._decode, places.tolist(), rows.numpy())
            for places, rows in zip(torch.split(index, share), torch.split(x, share), strict=True)
        ]
        return _Reading(Batch(x, cond, index), parts)

    def _decode(self, places: list[int], rows: np.ndarray) -> None:
        for place, row in zip(places, rows, strict=True):
            row[:] = self._image(self.names[place])

    def _image(self, name: str) -> np.ndarray:
        where = self.source.where(name)
        with reading(where, REPLACE), open_image(BytesIO(self.source.read(name))) as image:
            return self.transform(image, where)

    def _check(self, names: Sequence[str]) -> None:
        for name in names:
            where = self.source.where(name)
            with reading(where, REPLACE):
                with self.source.open(name) as file, open_image(file) as image:
                    self.transform.check(image, where)
                    doubtful, end = _may_be_transparent(image), _ENDS.get(image.format or "", b"")
                if doubtful or not self.source.ends_with(name, end):
                    self._image(name)
