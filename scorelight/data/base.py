"""The base of the data modules: two sets of examples, their loaders, and the shape of an example."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

from lightning.pytorch import LightningDataModule
from torch import Tensor

from scorelight.data.arrays import Examples
from scorelight.data.loaders import EvalLoader, TrainLoader, global_seed, shard
from scorelight.errors import ConfigurationError
from scorelight.rng import hash_seed
from scorelight.storage.checkpoint import read_checkpoint
from scorelight.storage.component import Component
from scorelight.storage.memory import check_memory
from scorelight.storage.specs import build, described

__all__ = ["ArrayDataModule", "EightBitDataModule", "Split"]

Split = Literal["train", "val"]

_LARGEST = 1_000_000_000
_BYTES = 16
"""Memory of a training step per number in its batch, at least: x0, ε, x_t and the output in float32."""


class DescribedDataModule(LightningDataModule):
    """A data module that a checkpoint describes under ``data``."""

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path, **options: Any) -> Self:  # type: ignore[override]
        """The data module of a checkpoint, its options replaced by those given.

        Raises:
            ConfigurationError: If the file describes none of this class, see also `trust`.
        """
        path = Path(checkpoint_path)
        found = described(read_checkpoint(path, mmap=True).get("data"), cls, "data", path)
        loaded: Self = build(replace(found, arguments=found.arguments | options))
        return loaded


class ArrayDataModule(Component, DescribedDataModule, ABC):
    """A training and a validation set. A subclass sets its `shape` and defines its `arrays`.

    If it also sets `num_classes`, the number of its classes (labels count from 0) or None for no labels, a
    network for other classes is refused before the data are loaded.

    Args:
        batch_size: Training examples per step and process.
        val_batch_size: Validation examples per step and process.
        seed: Seed of the split; the order of training is that of `seed_everything` as well.
        flip: Mirror half of the images left to right, in training only.
    """

    shape: tuple[int, ...]
    """Shape of one example; the command line passes it to the network."""
    num_bins: int | None = None
    """Number of grey levels, equally spaced from −1 to 1 as the model sees them; None if not quantised."""
    class_names: Sequence[str] | None = None
    """Name of each class, if they have names: a checkpoint keeps them, and `sample` takes them as labels."""

    def __init__(
        self, batch_size: int = 64, val_batch_size: int = 256, seed: int = 0, flip: bool = False
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("val_batch_size", val_batch_size)):
            if not 1 <= value <= _LARGEST:
                raise ConfigurationError(f"data.{name}={value}: must be at least 1 and at most {_LARGEST:,}")
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size
        self.seed = seed
        self.flip = flip
        self._digests: dict[str, str] = {}

    @abstractmethod
    def arrays(self) -> tuple[Examples, Examples]:
        """The training and the validation set."""

    def scale(self, x: Tensor) -> Tensor:
        """From stored values to what the model sees; called on the device."""
        return x

    def setup(self, stage: str) -> None:
        """Load once."""
        if not hasattr(self, "train"):
            self.train, self.val = self.arrays()

    def train_dataloader(self) -> TrainLoader:
        """The endless stream of training batches.

        Raises:
            ConfigurationError: If a batch alone takes more memory than there is.
        """
        num_bytes = self.batch_size * math.prod(self.shape) * _BYTES
        check_memory(f"data.batch_size={self.batch_size}", num_bytes, "choose a smaller one")
        seed = hash_seed(self.seed, global_seed())
        return TrainLoader(self.train, self.batch_size, seed, *shard(self), flip=self.flip)

    def val_dataloader(self) -> EvalLoader:
        """Every validation example once."""
        return self.eval_loader("val")

    def eval_loader(self, split: Split, batch_size: int | None = None) -> EvalLoader:
        """This process's share of a complete split: in order, once, as stored, never mirrored.

        Args:
            split: Training or validation set.
            batch_size: Examples per batch (default: `val_batch_size`).
        """
        size = self.val_batch_size if batch_size is None else batch_size
        return EvalLoader(self.examples(split), size, *shard(self))

    def fingerprint(self, split: Split = "train") -> str:
        """Name of a split by its content, such as ``mnist-train-`` and 16 hexadecimal digits.

        Equal only if the stored examples are equal: a key for results computed from them.
        """
        if split not in self._digests:
            self._digests[split] = self.examples(split).digest()
        return f"{re.sub(r'[^a-z0-9]+', '-', self._name().lower())}-{split}-{self._digests[split]}"

    def _name(self) -> str:
        """The name of the data set in the fingerprint."""
        return type(self).__name__.removesuffix("DataModule")

    def examples(self, split: Split) -> Examples:
        """A complete split in order, as stored; loaded if it was not."""
        self.setup("fit")
        return {"train": self.train, "val": self.val}[split]

    def sizes(self) -> tuple[int, int]:
        """Numbers of training and validation examples."""
        return len(self.examples("train")), len(self.examples("val"))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Scale on the device."""
        return batch._replace(x0=self.scale(batch.x0))


class EightBitDataModule(ArrayDataModule, ABC):
    """Images that are stored as uint8, shape (C, H, W), and scaled to [−1, 1] on the device."""

    num_bins = 256

    def scale(self, x: Tensor) -> Tensor:
        """0..255 into [−1, 1]; `pictures.to_uint8` is the inverse."""
        return x.float() / 127.5 - 1
