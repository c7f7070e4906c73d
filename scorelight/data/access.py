"""The examples of any LightningDataModule, as the model sees them.

`examples_of` is the only way from a data module to complete sets of examples: for objectives that need the
training set, for evaluation and for ``scorelight advise``. It asks this of a data module:

* ``train_dataloader()`` and ``val_dataloader()``, each one loader of finite length whose batches `as_batch`
  understands: a tensor x0, (x0, label), (x0, conditions) or a `Batch`; x0 is what the model sees, images in
  [−1, 1].
* ``num_bins``, optional: how many grey levels x0 has, equally spaced from −1 to 1, for bits per dimension.

Of a torch `DataLoader` every example of its dataset is taken once, in order, whatever its sampler.
scorelight's own modules also have ``examples(split)``, ``scale(x)``, ``fingerprint(split)`` and ``flip``:
their examples need not be in memory, and are scaled on the device.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from scorelight.batch import Batch, IndexedBatch, as_batch
from scorelight.data.arrays import Arrays, Examples
from scorelight.data.base import Split
from scorelight.errors import ConfigurationError

__all__ = ["ModelExamples", "examples_of"]


@dataclass(frozen=True, slots=True)
class ModelExamples:
    """The examples of a split, as the model sees them."""

    stored: Examples
    """The examples as they are stored, in a fixed order."""
    scale: Callable[[Tensor], Tensor]
    """From stored values to what the model sees, on any device."""
    fingerprint: Callable[[], str]
    """Returns a name of the examples that changes with their content."""
    num_bins: int | None
    """Number of grey levels, equally spaced from −1 to 1; None if the data are not quantised."""
    flip: bool
    """Whether training mirrors the images at random."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self.first(1).x0.shape[1:])

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.stored)

    def batches(
        self, indices: Sequence[Tensor], device: torch.device | None = None
    ) -> Iterator[IndexedBatch]:
        """The batches at the given positions in turn, on a device (default: in the host's memory)."""
        for index, batch in zip(indices, self.stored.batches(indices), strict=True):
            x0, cond, _ = self._scaled(batch, device)
            yield IndexedBatch(x0, cond, index)

    def first(self, num: int) -> Batch:
        """The first `num` examples, or all there are."""
        return self._at(torch.arange(min(num, len(self))))

    def spread(self, num: int | None) -> Batch:
        """At most `num` examples, evenly spaced; all of them by default."""
        if num is None:
            return self.all()
        return self._at(torch.arange(0, len(self), -(-len(self) // num)))

    def all(self) -> Batch:
        """Every example once.

        Raises:
            ConfigurationError: If the examples are not kept in memory.
        """
        return self._scaled(self.stored.all())

    def augmented(self) -> Batch:
        """Every example once, and its mirror image too where training mirrors.

        Raises:
            ConfigurationError: If the examples are not kept in memory.
        """
        x0, cond, _ = self.all()
        if self.flip:
            x0, cond = torch.cat([x0, x0.flip(-1)]), {k: torch.cat([v, v]) for k, v in cond.items()}
        return Batch(x0, cond)

    def _at(self, index: Tensor) -> Batch:
        return self._scaled(self.stored.batch(index))

    def _scaled(self, batch: Batch, device: torch.device | None = None) -> Batch:
        cond = {name: value.to(device) for name, value in batch.cond.items()}
        return Batch(self.scale(batch.x0.to(device)), cond, batch.indices)


def examples_of(data: LightningDataModule, split: Split, limit: int | None = None) -> ModelExamples:
    """The examples of a split of a data module, which is set up if no trainer has done so.

    Args:
        data: One of scorelight's data modules, or any other that this module's docstring describes.
        split: Training or validation set.
        limit: Of another module's loader, take no more than the first so many: it may then be endless.

    Raises:
        ConfigurationError: If the data module lacks what is needed; the message names it.
    """
    if data.trainer is None:
        data.setup("fit")
    own: Any = data
    num_bins, flip = getattr(own, "num_bins", None), getattr(own, "flip", False)
    if hasattr(own, "examples"):
        return ModelExamples(
            own.examples(split), own.scale, lambda: str(own.fingerprint(split)), num_bins, flip
        )
    stored = _collect(data, "train_dataloader" if split == "train" else "val_dataloader", limit)
    name = re.sub(r"[^a-z0-9]+", "-", type(data).__name__.lower())
    return ModelExamples(stored, lambda x: x, lambda: f"{name}-{split}-{stored.digest()}", num_bins, flip)


def _collect(data: LightningDataModule, name: str, limit: int | None) -> Arrays:
    """The examples of a foreign data module's loader, through its hooks, in memory."""
    batches: list[Batch] = []
    for raw in _loader(data, name, endless=limit is not None):
        moved = data.on_before_batch_transfer(raw, 0)
        batches.append(as_batch(data.on_after_batch_transfer(moved, 0)))
        if limit and sum(len(batch.x0) for batch in batches) >= limit:
            break
    if not batches:
        raise ConfigurationError(f"{type(data).__name__}.{name}(): gives no batch; give it examples")
    cond = {key: torch.cat([b.cond[key] for b in batches])[:limit] for key in batches[0].cond}
    return Arrays(torch.cat([b.x0 for b in batches])[:limit], cond)


def _loader(data: LightningDataModule, name: str, endless: bool) -> Iterable[Any]:
    """A pass over the examples: every one once and in order, where the loader permits it."""
    owner = type(data).__name__
    if getattr(type(data), name) is getattr(LightningDataModule, name):
        raise ConfigurationError(f"{owner}: has no {name}(), and its examples are needed; define it")
    loader: Any = getattr(data, name)()
    if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
        return DataLoader(
            loader.dataset,
            loader.batch_size or 1,
            collate_fn=loader.collate_fn,
            num_workers=loader.num_workers,
        )
    if not hasattr(loader, "__iter__") or not (endless or _has_length(loader)):
        raise ConfigurationError(
            f"{owner}.{name}(): returns a {type(loader).__name__} without a length, and all examples are "
            "needed; return one loader that ends, and give it __len__"
        )
    return loader  # type: ignore[no-any-return]


def _has_length(loader: Any) -> bool:
    """Whether a loader ends; a DataLoader of a stream has a __len__ that raises."""
    try:
        return len(loader) >= 0
    except TypeError:
        return False
