"""Data modules and loaders for tests."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

from lightning.pytorch import LightningDataModule

T = TypeVar("T")
Data = TypeVar("Data", bound=LightningDataModule)


def set_up(data: Data) -> Data:
    """The data module, ready to fit."""
    data.prepare_data()
    data.setup("fit")
    return data


def first_batches(loader: Iterable[T], num: int) -> list[T]:
    """The first batches of a loader, over as many passes as it takes."""

    def endless() -> Iterator[T]:
        while True:
            yield from loader

    return list(islice(endless(), num))
