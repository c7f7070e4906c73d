"""``scorelight ema``: an average of the weights with another profile, after the training."""

from __future__ import annotations

from pathlib import Path

from scorelight.cli.common import run_command, written
from scorelight.errors import ConfigurationError
from scorelight.storage.checkpoint import read_checkpoint, write_checkpoint
from scorelight.storage.runs import find_checkpoint
from scorelight.training.power_ema import reconstruct

__all__ = ["ema", "run_ema"]


def run_ema(args: list[str]) -> None:
    """Parse and run."""
    run_command(ema, args)


def ema(run: str, sigma_rel: float = 0.1, out: str | None = None) -> None:
    """Write a checkpoint whose averaged weights have the profile t^γ of a given width.

    The source is Karras et al. (2024), "Analyzing and improving the training dynamics of diffusion models",
    sec. 3. The run must have been trained with the callback PowerEMA.

    Args:
        run: Run folder.
        sigma_rel: Standard deviation of the profile by the length of the training, below 0.288: smaller ones
            average over fewer steps. Those of 0.05 to 0.25 are accurate.
        out: Checkpoint to write (default: checkpoints/ema-SIGMA_REL.ckpt in the run folder).
    """
    last = find_checkpoint(run)
    folder = last.parents[1]
    path = Path(out) if out else folder / "checkpoints" / f"ema-{sigma_rel:g}.ckpt"
    if out and path.exists():
        raise ConfigurationError(f"--out {out}: exists already; name a new file")
    average = reconstruct(folder, sigma_rel)
    checkpoint = read_checkpoint(last)
    weights = checkpoint["state_dict"]
    for name, value in average.items():
        key = f"ema.denoiser.{name}"
        if key not in weights or weights[key].shape != value.shape:
            raise ConfigurationError(f"{last}: has no weight {key} of shape {tuple(value.shape)}")
        weights[key] = value
    kept = {
        k: v
        for k, v in checkpoint.items()
        if k not in ("optimizer_states", "callbacks", "loops", "lr_schedulers")
    }
    with written(path):
        write_checkpoint(kept, path)
    print(f"{path}: average of sigma_rel {sigma_rel:g}. To draw from it: scorelight sample {path}")
