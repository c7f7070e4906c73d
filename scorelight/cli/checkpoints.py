"""Finding a run's checkpoint and reading what model it holds."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from scorelight.errors import ConfigurationError

if TYPE_CHECKING:
    from scorelight.module import ScoreModule

__all__ = ["find_checkpoint", "load_module", "read_config"]


def find_checkpoint(path: str | Path) -> Path:
    """A checkpoint file as it is; for a run folder its last checkpoint.

    Raises:
        ConfigurationError: If there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    for folder in (path / "checkpoints", path):
        for name in ("last.ckpt", "best.ckpt"):
            if (folder / name).is_file():
                return folder / name
    runs = sorted(path.glob("version_*/checkpoints/last.ckpt"), key=lambda p: p.stat().st_mtime)
    if runs:
        return runs[-1]
    what = "has no checkpoint in it" if path.is_dir() else "does not exist"
    raise ConfigurationError(f"{path} {what}: give a .ckpt file or a run folder with checkpoints/last.ckpt")


def load_module(path: Path, weights: Literal["ema", "raw"] = "ema") -> ScoreModule:
    """The model of a checkpoint, on the CPU; its `ema.denoiser` has the averaged or the raw weights.

    Raises:
        ConfigurationError: If the weights do not fit the model that the checkpoint describes.
    """
    from scorelight.module import ScoreModule

    try:
        module: ScoreModule = ScoreModule.load_from_checkpoint(path, map_location="cpu")
    except RuntimeError as error:
        raise ConfigurationError(f"{path}: the weights do not fit: {str(error)[:300]}") from error
    if weights == "raw":
        module.ema.denoiser = module.denoiser.eval()
    return module


def read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Configurations of the model and of the data in a checkpoint; nothing but plain data is unpickled.

    Raises:
        ConfigurationError: If the file is no checkpoint of scorelight.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        model = dict(checkpoint["hyper_parameters"])
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} is not a checkpoint of scorelight, or is damaged") from error
    model.pop("_instantiator", None)
    return model, checkpoint.get("data")
