"""``scorelight interpolate``: from one image to another through the noise that the flow turns them into."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from tqdm import tqdm

from scorelight.batch import Batch, gather
from scorelight.cli.checkpoints import find_checkpoint, load_module
from scorelight.cli.command import run_command, stored_config, written
from scorelight.errors import ConfigurationError
from scorelight.pictures import grid, save
from scorelight.probability_flow import decode, encode, slerp

__all__ = ["interpolate", "run_interpolate"]


def run_interpolate(args: list[str]) -> None:
    """Parse with the checkpoint's own data as the default."""
    _, data = stored_config("interpolate", args)
    run_command(interpolate, args, set_defaults={"data": data} if data else None)


def interpolate(
    checkpoint: str,
    data: LightningDataModule | None = None,
    num_pairs: int = 8,
    num_columns: int = 10,
    out: str = "interpolation.png",
    weights: Literal["ema", "raw"] = "ema",
    tolerance: float = 1e-5,
) -> None:
    """Encode images along the probability flow, and decode points between them: one row for each pair.

    The first and the last column are images of the validation set; next to them stand their reconstructions,
    and in between what the flow makes of noises on the arc from one to the other (spherical interpolation).

    Args:
        checkpoint: Run folder, or a .ckpt file.
        data: Data module whose validation images to take (default: as in the checkpoint).
        num_pairs: Rows.
        num_columns: Columns, the two images included.
        out: Picture to write.
        weights: Averaged or raw weights.
        tolerance: Relative and absolute tolerance of the integrator.
    """
    path = find_checkpoint(checkpoint)
    if num_pairs < 1 or num_columns < 4:
        raise ConfigurationError(
            f"--num_pairs {num_pairs} --num_columns {num_columns}: at least 1 and 4 are needed"
        )
    module = load_module(path)
    denoiser = (module.ema.denoiser if weights == "ema" else module.denoiser).eval()
    if data is None:
        raise ConfigurationError(f"{path} does not say what data it was trained on; add --data CLASS")
    batch = _validation(data, 2 * num_pairs)
    shares = torch.linspace(0, 1, num_columns - 2).tolist()
    with torch.no_grad():
        noise = encode(denoiser, batch.x0, rtol=tolerance, atol=tolerance, **batch.cond)
        columns = []
        for share in tqdm(shares, desc="interpolating"):
            between, cond = slerp(noise[::2], noise[1::2], share), _nearer(batch.cond, share)
            columns.append(decode(denoiser, between, rtol=tolerance, atol=tolerance, **cond))
    ends = batch.x0[::2], batch.x0[1::2]
    with written(Path(out)):
        save(grid(torch.stack([ends[0], *columns, ends[1]], dim=1).flatten(0, 1), num_columns), Path(out))
    error = torch.cat([columns[0] - ends[0], columns[-1] - ends[1]]).square().mean().sqrt().item()
    print(f"{num_pairs} pairs of validation images, {path} ({weights} weights): {out}")
    print(f"  reconstructions are {error:.2g} off (root mean square, images from -1 to 1)")


def _validation(data: LightningDataModule, num: int) -> Batch:
    """The first validation examples, as the model sees them."""
    data.prepare_data()
    data.setup("validate")
    batch = gather(data, "val_dataloader", num)
    if len(batch.x0) < num or batch.x0.ndim < 3:
        raise ConfigurationError(
            f"{type(data).__name__}: {len(batch.x0)} validation examples of shape "
            f"{tuple(batch.x0.shape[1:])}, but {num} images are needed"
        )
    return batch


def _nearer(cond: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """The conditions of the nearer of the two images of each pair."""
    return {name: value[int(share > 0.5) :: 2] for name, value in cond.items()}
