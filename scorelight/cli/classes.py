"""The number of classes of a network, where it is that of the data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule

from scorelight.cli.construction import ComponentParser
from scorelight.errors import ConfigurationError

__all__ = ["fill_in_classes"]

_KEY, _DATA = "num_classes", "data"


def fill_in_classes(model: Namespace, data: Namespace) -> None:
    """Replace `num_classes: data` in the options of a model by the number of classes of the data.

    Args:
        model: The configuration of the model, which is changed.
        data: The configuration of the data.

    Raises:
        ConfigurationError: If the data have no labels, or do not state their number of classes.
    """
    for key, options in list(_asking("model", model)):
        options[_KEY] = _number_of_classes(key, data)


def _asking(key: str, options: Any) -> Iterator[tuple[str, Namespace]]:
    """The options, and those inside of them, that ask for the number of classes of the data."""
    if isinstance(options, Namespace):
        if vars(options).get(_KEY) == _DATA:
            yield key, options
        for name, value in vars(options).items():
            yield from _asking(key if name == "init_args" else f"{key}.{name}", value)


def _number_of_classes(key: str, config: Namespace) -> int:
    parser = ComponentParser()
    parser.add_subclass_arguments(LightningDataModule, "data")
    data: Any = parser.instantiate_classes(parser.parse_object({"data": config.as_dict()})).data
    number: int | None = getattr(data, _KEY, None)
    if number is None:
        lacks = "has no labels" if hasattr(data, _KEY) else f"does not state its number of classes ({_KEY})"
        raise ConfigurationError(
            f"{key}.{_KEY}={_DATA}: {type(data).__name__} {lacks}; give the number, or leave it "
            "out for a model without classes"
        )
    return number
