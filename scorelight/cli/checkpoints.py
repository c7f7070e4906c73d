"""Finding a run's checkpoint and reading what model it holds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scorelight.checkpoint_io import DamagedCheckpointError, read_checkpoint, verify
from scorelight.errors import ConfigurationError
from scorelight.trusted import check_trusted

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
    runs = sorted(path.glob("version_*/checkpoints/last.ckpt"), key=lambda p: p.stat().st_mtime)
    own = path.parent if path.name == "checkpoints" else path
    for folder in (own, *(run.parents[1] for run in reversed(runs))):
        if found := newest_sound(folder):
            return found
    what = "has no checkpoint in it" if path.is_dir() else "does not exist"
    raise ConfigurationError(f"{path} {what}: give a .ckpt file or a run folder with checkpoints/last.ckpt")


def newest_sound(run: Path) -> Path | None:
    """The newest checkpoint of a run folder that is what was written; damaged ones are named on stderr.

    Raises:
        ConfigurationError: If there are checkpoints, and all are damaged.
    """
    there = [
        p for name in ("last", "previous", "best") if (p := run / "checkpoints" / f"{name}.ckpt").is_file()
    ]
    damaged = []
    for path in there:
        try:
            verify(path)
        except DamagedCheckpointError as error:
            damaged.append(str(error))
            continue
        if damaged:
            print(f"{'; '.join(damaged)}; using {path}", file=sys.stderr)
        return path
    if damaged:
        raise DamagedCheckpointError(f"{'; '.join(damaged)}; no sound checkpoint is left in {run}")
    return None


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
        checkpoint = read_checkpoint(path, mmap=True)
        model = dict(checkpoint["hyper_parameters"])
    except (KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} is not a checkpoint of scorelight") from error
    model.pop("_instantiator", None)
    check_trusted((model, checkpoint.get("data")), path)
    return model, checkpoint.get("data")
