"""MNIST and CIFAR-10: the training set for training, the test set for validation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torchvision import datasets
from torchvision.datasets.utils import check_integrity

from scorelight.data.arrays import Arrays
from scorelight.data.base import EightBitDataModule
from scorelight.data.labels import DIGITS
from scorelight.data.npz import read_npz
from scorelight.data.reading import reading
from scorelight.errors import ConfigurationError

__all__ = ["CIFAR10DataModule", "MNISTDataModule"]


class _PublishedDataModule(EightBitDataModule, ABC):
    """A data set in a folder `root`, to which torchvision can download it."""

    root: Path
    download: bool
    _sizes: tuple[int, int]

    @abstractmethod
    def _files(self) -> list[Path]:
        """The files that are needed."""

    @abstractmethod
    def _corrupted(self) -> Iterator[Path]:
        """Those of the files that differ from the published ones."""

    @abstractmethod
    def _load(self, train: bool, download: bool = False) -> Arrays:
        """Training or test set."""

    def prepare_data(self) -> None:
        """Download if a file is not there; Lightning calls this in one process of each machine."""
        if not self.download or not self._missing():
            return
        try:
            self._load(True, download=True)
        except Exception as error:
            raise ConfigurationError(
                f"data.root={self.root}: {self._name()} is missing and cannot be downloaded: "
                f"{' '.join(str(error).split())}; set data.root to the folder that holds {self._relative()}"
            ) from error

    def arrays(self) -> tuple[Arrays, Arrays]:
        """The official training set; and, to validate, the official test set."""
        if missing := self._missing():
            raise ConfigurationError(
                f"{missing[0]} does not exist; set data.root to the folder that holds {self._relative()}, "
                "or data.download to true"
            )
        if corrupted := next(self._corrupted(), None):
            raise ConfigurationError(f"{corrupted} is corrupted or incomplete; {_AGAIN}")
        with reading(self._files()[0].parent, _AGAIN):
            return self._complete(self._load(True), "training"), self._complete(self._load(False), "test")

    def sizes(self) -> tuple[int, int]:
        """Those published: no file is read."""
        return self._sizes

    def _complete(self, arrays: Arrays, which: Literal["training", "test"]) -> Arrays:
        """Raise unless these are as many labelled images as were published."""
        x, label, num = arrays.x, arrays.cond.get("label"), self._sizes[which == "test"]
        ten = label is not None and label.shape == (num,) and ((label >= 0) & (label < 10)).all()
        if x.shape != (num, *self.shape) or not ten:
            raise ConfigurationError(
                f"{self._files()[0].parent}: the {which} set has images of shape {tuple(x.shape)}; that of "
                f"{self._name()} has {(num, *self.shape)}, and a label from 0 to 9 for each; {_AGAIN}"
            )
        return arrays

    def _relative(self) -> Path:
        return self._files()[0].relative_to(self.root)

    def _missing(self) -> list[Path]:
        return [path for path in self._files() if not path.is_file()]


_AGAIN = "delete it to have it downloaded again"


class MNISTDataModule(_PublishedDataModule):
    """70,000 handwritten digits of 28×28 pixels, with labels 0 to 9 (LeCun, Cortes & Burges, 1998).

    Training set: the official 60,000. Validation set: the official test set of 10,000. Images have the
    shape (1, 28, 28) and are in [−1, 1].

    Args:
        root: Folder with ``MNIST/raw/train-images-idx3-ubyte`` and its like, as torchvision creates it.
        batch_size: Training examples per step and process.
        val_batch_size: Validation examples per step and process.
        download: Download missing files; files that exist need no network.
        seed: Seed of the order of training, with that of `seed_everything`.
    """

    shape = (1, 28, 28)
    num_classes = 10
    class_names = DIGITS
    _sizes = (60_000, 10_000)

    def __init__(
        self,
        root: str | Path = "data",
        batch_size: int = 128,
        val_batch_size: int = 256,
        download: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, val_batch_size, seed)
        self.root = Path(root).expanduser()
        self.download = download

    def _files(self) -> list[Path]:
        return [self.root / "MNIST" / "raw" / Path(name).stem for name, _ in datasets.MNIST.resources]

    def _corrupted(self) -> Iterator[Path]:
        for path in self._files():
            count = 60_000 if path.name.startswith("train") else 10_000
            size = 16 + count * 784 if "images" in path.name else 8 + count
            if path.stat().st_size != size:
                yield path

    def _load(self, train: bool, download: bool = False) -> Arrays:
        mnist = datasets.MNIST(self.root, train, download=download)
        return Arrays(mnist.data[:, None], {"label": mnist.targets.long()})


class CIFAR10DataModule(_PublishedDataModule):
    """60,000 colour photographs of 32×32 pixels, with labels 0 to 9 (Krizhevsky, 2009).

    Training set: the official 50,000. Validation set: the official test set of 10,000. Images have the
    shape (3, 32, 32) and are in [−1, 1].

    Args:
        root: Folder with ``cifar-10-batches-py``, as torchvision creates it; or with ``cifar10_train.npz``
            and ``cifar10_test.npz``, which hold ``images`` (N, 32, 32, 3), uint8, and ``labels`` (N,).
        batch_size: Training examples per step and process.
        val_batch_size: Validation examples per step and process.
        download: Download missing files; files that exist need no network.
        seed: Seed of the order of training, with that of `seed_everything`.
        flip: Mirror half of the images left to right, in training only, at random for each image and epoch.
    """

    shape = (3, 32, 32)
    num_classes = 10
    class_names = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    _sizes = (50_000, 10_000)

    def __init__(
        self,
        root: str | Path = "data",
        batch_size: int = 128,
        val_batch_size: int = 256,
        download: bool = True,
        seed: int = 0,
        flip: bool = True,
    ) -> None:
        super().__init__(batch_size, val_batch_size, seed, flip)
        self.root = Path(root).expanduser()
        self.download = download

    def _archives(self) -> list[Path]:
        return [self.root / f"cifar10_{name}.npz" for name in ("train", "test")]

    def _checksums(self) -> dict[Path, str]:
        published = datasets.CIFAR10
        known = [
            *published.train_list,
            *published.test_list,
            (published.meta["filename"], published.meta["md5"]),
        ]
        return {self.root / published.base_folder / name: checksum for name, checksum in known}

    def _files(self) -> list[Path]:
        archives = self._archives()
        return archives if any(path.is_file() for path in archives) else list(self._checksums())

    def _corrupted(self) -> Iterator[Path]:
        checksums = self._checksums()
        for path in self._files():
            if path in checksums and not check_integrity(path, checksums[path]):
                yield path

    def _load(self, train: bool, download: bool = False) -> Arrays:
        archive = self._archives()[0 if train else 1]
        if archive.is_file():
            return read_npz(archive)
        cifar = datasets.CIFAR10(self.root, train, download=download)
        x = torch.from_numpy(cifar.data).permute(0, 3, 1, 2).contiguous()
        return Arrays(x, {"label": torch.tensor(cifar.targets)})
