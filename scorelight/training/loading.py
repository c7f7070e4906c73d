"""Building the model that a checkpoint describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule

from scorelight.errors import ConfigurationError
from scorelight.storage.checkpoint import read_checkpoint
from scorelight.storage.specs import described, plain
from scorelight.training.configured import described_settings
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
    """Configurations of the model and of the data in a checkpoint, which name only classes that it may name.

    Raises:
        ConfigurationError: If the file is no checkpoint of scorelight, or names anything else.
    """
    checkpoint = read_checkpoint(path, mmap=True)
    settings = described_settings(ScoreModule, checkpoint, path)
    data = described(checkpoint.get("data"), LightningDataModule | None, "data", path)
    return plain(settings), plain(data)
