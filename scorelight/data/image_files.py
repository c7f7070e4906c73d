"""Images that are decoded as they are needed, by threads that read a few batches ahead."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from scorelight.batch import Batch
from scorelight.data.arrays import Arrays, Examples
from scorelight.data.image_sources import Source
from scorelight.data.image_transform import ImageTransform, may_be_transparent, open_image
from scorelight.data.reading import progress, reading
from scorelight.errors import ConfigurationError
from scorelight.storage.memory import check_memory

__all__ = ["REPLACE", "ImageFiles"]

REPLACE = "replace the file, or remove it"
_AHEAD = 3
_CHUNK = 256
_ENDS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}
"""The last bytes of a complete file, by format; a few may follow."""


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
        self._labels = labels
        self.transform = transform
        self.num_workers = num_workers

    def __len__(self) -> int:
        """Number of images."""
        return len(self.names)

    @property
    def labels(self) -> Tensor | None:
        """Their labels, shape (N,), if they have any."""
        return self._labels

    @property
    def num_bytes(self) -> int:
        """Memory that all of them take, decoded."""
        return len(self) * self.transform.channels * self.transform.height * self.transform.width

    def select(self, index: Tensor) -> Self:
        """The set of the images at the given positions alone."""
        names = [self.names[i] for i in index.tolist()]
        labels = None if self._labels is None else self._labels[index]
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
        remedy = "set data.in_memory to false, or a smaller data.image_size"
        check_memory(self.source.path, self.num_bytes, remedy)
        with reading(self.source.path, remedy):
            x = torch.empty(len(self), *self.transform.shape, dtype=torch.uint8)
        for batch in progress(self.batches(pieces), len(pieces), f"reading {self.source.path.name}"):
            x[batch.indices] = batch.x0
        return Arrays(x, {} if self._labels is None else {"label": self._labels})

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
        """SHA-256 of the content of all files, their labels and the transform; each file is read once."""
        found = hashlib.sha256(repr(self.transform).encode())
        pieces = [self.names[i : i + _CHUNK] for i in range(0, len(self), _CHUNK)]
        with ThreadPoolExecutor(self.num_workers) as pool:
            done = pool.map(self._digests, pieces)
            for piece in progress(done, len(pieces), f"hashing {self.source.path.name}"):
                found.update(piece)
        if self._labels is not None:
            found.update(self._labels.numpy().data)
        return found.hexdigest()[:16]

    def _digests(self, names: Sequence[str]) -> bytes:
        """SHA-256 of each of these files."""
        with reading(self.source.path, REPLACE):
            return b"".join(hashlib.sha256(self.source.read(name)).digest() for name in names)

    def _start(self, pool: ThreadPoolExecutor, index: Tensor) -> _Reading:
        x = torch.empty(len(index), *self.transform.shape, dtype=torch.uint8)
        cond = {} if self._labels is None else {"label": self._labels[index]}
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
                    doubtful, end = may_be_transparent(image), _ENDS.get(image.format or "", b"")
                if doubtful or not self.source.ends_with(name, end):
                    self._image(name)
