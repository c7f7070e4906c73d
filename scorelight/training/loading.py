"""Building the model that a checkpoint describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scorelight.errors import ConfigurationError
from scorelight.storage.checkpoint import read_checkpoint
from scorelight.storage.trust import check_trusted
from scorelight.training.lightning_private import INSTANTIATOR
from scorelight.training.module import ScoreModule

__all__ = ["load_module", "read_config"]


def load_module(path: Path) -> ScoreModule:
    """The model of a checkpoint, on the CPU.

    Raises:
        ConfigurationError: If the weights do not fit the model that the checkpoint describes.
    """
    try:
        module: ScoreModule = ScoreModule.load_from_checkpoint(path, map_location="cpu")
    except RuntimeError as error:
        raise ConfigurationError(f"{path}: the weights do not fit: {str(error)[:300]}") from error
    return module


def read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Configurations of the model and of the data in a checkpoint; nothing but plain data is unpickled.

    Raises:
        ConfigurationError: If the file is no checkpoint of scorelight.
    """
    try:
        checkpoint = read_checkpoint(path, mmap=True)
        model = dict(checkpoint["hyper_parameters"])
    except (KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} is not a checkpoint of scorelight") from error
    for key in INSTANTIATOR:
        model.pop(key, None)
    check_trusted((model, checkpoint.get("data")), path)
    return model, checkpoint.get("data")
