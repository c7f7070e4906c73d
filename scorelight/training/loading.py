"""Building the model that a checkpoint describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from lightning.pytorch import LightningDataModule

from scorelight.classifiers.network import NetworkClassifier
from scorelight.errors import ConfigurationError
from scorelight.image_text.model import NoisyCLIP
from scorelight.storage.checkpoint import read_checkpoint
from scorelight.storage.specs import described, plain
from scorelight.training.classifier import ClassifierModule
from scorelight.training.configured import ConfiguredModule, described_settings
from scorelight.training.image_text import ImageTextModule
from scorelight.training.module import ScoreModule

__all__ = ["load_classifier", "load_image_text", "load_module", "read_config"]

_T = TypeVar("_T", bound=ConfiguredModule)


def load_module(path: Path) -> ScoreModule:
    """The generative model of a checkpoint, on the CPU.

    Raises:
        ConfigurationError: If it holds something else, or if the weights do not fit the model that it
            describes.
    """
    return _load(ScoreModule, path)


def load_classifier(path: Path) -> NetworkClassifier:
    """The classifier of a checkpoint, on the CPU and in evaluation mode.

    Raises:
        ConfigurationError: See `load_module`.
    """
    return _load(ClassifierModule, path).classifier.eval()


def load_image_text(path: Path) -> NoisyCLIP:
    """The encoders of images and captions of a checkpoint, on the CPU and in evaluation mode.

    Raises:
        ConfigurationError: See `load_module`.
    """
    return _load(ImageTextModule, path).model.eval()


def _load(owner: type[_T], path: Path) -> _T:
    try:
        return owner.load_from_checkpoint(path, map_location="cpu")
    except RuntimeError as error:
        raise ConfigurationError(f"{path}: the weights do not fit: {str(error)[:300]}") from error


def read_config(
    path: Path, owner: type[ConfiguredModule] = ScoreModule
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Configurations of the model and of the data in a checkpoint, which name only classes that it may name.

    Args:
        path: The checkpoint.
        owner: The class that it is a model of.

    Raises:
        ConfigurationError: If the file is no checkpoint of scorelight, or names anything else.
    """
    checkpoint = read_checkpoint(path, mmap=True)
    settings = described_settings(owner, checkpoint, path)
    data = described(checkpoint.get("data"), LightningDataModule | None, "data", path)
    return plain(settings), plain(data)
