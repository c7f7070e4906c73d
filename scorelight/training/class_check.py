"""Whether the classes of the data are those of the network, before a network is trained on others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, default_collate

from scorelight.batch import as_batch
from scorelight.conditions import check_labels
from scorelight.data.access import examples_of
from scorelight.errors import ConfigurationError
from scorelight.training.lightning_private import given_loader

__all__ = ["NETWORK_KEY", "check_classes_of_data", "check_stated_classes"]


NETWORK_KEY = "model.network.num_classes"
"""How a message names the number of classes of a network, which may be left out."""


class _Labels(NamedTuple):
    """Labels of a training set."""

    label: Any
    complete: bool
    """Whether they are those of all examples."""


def check_stated_classes(trainer: Trainer, num_classes: int | None, key: str = NETWORK_KEY) -> None:
    """Compare what is known before data are set up, and hence before anything is written.

    That is the number of classes that a data module states (`num_classes`, None for no labels), and the
    labels of loaders that are there already: given to `Trainer.fit`, or by a module that needs no setup.

    Args:
        trainer: A trainer that has been given the data.
        num_classes: Number of classes of the model, if any.
        key: How a message names it.

    Raises:
        ConfigurationError: If they are not those of the model.
    """
    data: Any = getattr(trainer, "datamodule", None)
    if not num_classes or trainer.state.fn not in ("fit", "validate"):
        return
    if data is None:
        _check("the training set", _labels_of_loader(given_loader(trainer)), num_classes, key)
    elif hasattr(data, "num_classes"):
        _check_number(type(data).__name__, data.num_classes, num_classes, key)
    elif trainer.state.fn == "fit" and not any(is_overridden(h, data) for h in ("prepare_data", "setup")):
        check_classes_of_data(data, num_classes, key)


def check_classes_of_data(
    data: LightningDataModule | None, num_classes: int | None, key: str = NETWORK_KEY
) -> None:
    """Compare the labels of a data module that is set up and does not state its number of classes.

    Args:
        data: The data module.
        num_classes: Number of classes of the model, if any.
        key: How a message names it.

    Raises:
        ConfigurationError: If they are not those of the model.
    """
    if data is not None and num_classes and not hasattr(data, "num_classes"):
        with isolate_rng():
            _check(type(data).__name__, _labels_of_module(data), num_classes, key)


def _labels_of_module(data: LightningDataModule) -> _Labels | None:
    own, hooks = hasattr(data, "examples"), ("on_before_batch_transfer", "on_after_batch_transfer")
    if not own and not any(is_overridden(hook, data) for hook in hooks):
        return _labels_of_loader(data.train_dataloader())
    examples = examples_of(data, "train", limit=1)
    if own and examples.stored.labels is not None:
        return _Labels(examples.stored.labels, True)
    return _Labels(examples.first(1).cond.get("label"), False)


def _labels_of_loader(loader: Any) -> _Labels | None:
    """All labels of a data set of tensors, else those of the first batch; None of what passes but once."""
    if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
        if isinstance(loader.dataset, TensorDataset) and loader.collate_fn is default_collate:
            return _Labels(as_batch(loader.dataset.tensors).cond.get("label"), True)
        loader = DataLoader(loader.dataset, loader.batch_size or 1, collate_fn=loader.collate_fn)
    elif not isinstance(loader, Sequence):
        return None
    with isolate_rng():
        batch = next(iter(loader), None)
    return None if batch is None else _Labels(as_batch(batch).cond.get("label"), False)


def _check(name: str, labels: _Labels | None, num_classes: int, key: str) -> None:
    if labels is None:
        return
    if labels.label is None:
        return _check_number(name, None, num_classes, key)
    label = check_labels(labels.label, num_classes, f"{name}: label")
    if labels.complete and len(label):
        _check_number(name, int(label.max()) + 1, num_classes, key)


def _check_number(name: str, number: int | None, num_classes: int, key: str) -> None:
    if number is None:
        optional = "leave num_classes out, or " * (key == NETWORK_KEY)
        raise ConfigurationError(
            f"{key}={num_classes}: {name} has no labels; {optional}give each example a label"
        )
    if number != num_classes:
        raise ConfigurationError(
            f"{key}={num_classes}: the number of classes of {name} is {number}; set num_classes to {number}, "
            "or on the command line to data"
        )
