"""``scorelight interpolate``: from one image to another through the noise that the flow turns them into."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from tqdm import tqdm

from scorelight.batch import Batch
from scorelight.cli.common import run_on_data, stored_data, validation_batch, written
from scorelight.denoisers.counting import CountingDenoiser
from scorelight.errors import ConfigurationError
from scorelight.images import grid, save
from scorelight.samplers.adaptive import RK45, slerp
from scorelight.samplers.base import Sampler
from scorelight.storage.runs import find_checkpoint
from scorelight.training.loading import load_module

__all__ = ["interpolate", "run_interpolate"]


def run_interpolate(args: list[str]) -> None:
    """Parse with the checkpoint's own data as the default."""
    run_on_data(interpolate, args)


def interpolate(
    checkpoint: str,
    data: LightningDataModule | None = None,
    num_pairs: int = 8,
    num_columns: int = 10,
    out: str = "interpolation.png",
    sampler: Sampler | None = None,
    weights: Literal["ema", "raw"] = "ema",
) -> None:
    """Encode images along the probability flow, and decode points between them: one row for each pair.

    The first and the last column are images of the validation set; next to them stand their reconstructions,
    and in between what the flow makes of noises on the arc from one to the other (spherical interpolation).
    Any deterministic sampler leads both ways: --sampler DDIM --sampler.num_steps 50

    Args:
        checkpoint: Run folder, or a .ckpt file.
        data: Data module whose validation images to take (default: as in the checkpoint).
        num_pairs: Rows.
        num_columns: Columns, the two images included.
        out: Picture to write.
        sampler: How to go along the flow (default: RK45 with tolerances of 1e-5, without `denoise`).
        weights: Averaged or raw weights.
    """
    path = find_checkpoint(checkpoint)
    if num_pairs < 1 or num_columns < 4:
        raise ConfigurationError(
            f"--num_pairs {num_pairs} --num_columns {num_columns}: at least 1 and 4 are needed"
        )
    module = load_module(path)
    denoiser = (module.ema.denoiser if weights == "ema" else module.denoiser).eval()
    batch = _images(stored_data(data, path), 2 * num_pairs)
    shares = torch.linspace(0, 1, num_columns - 2).tolist()
    chosen, counted = sampler or RK45(denoise=False), CountingDenoiser(denoiser)
    with torch.no_grad():
        noise = chosen.encode(counted, batch.x0, **batch.cond)
        there = counted.num_evaluations
        columns = []
        for share in tqdm(shares, desc="interpolating"):
            between, cond = slerp(noise[::2], noise[1::2], share), _nearer(batch.cond, share)
            columns.append(chosen(counted, between, **cond))
    ends = batch.x0[::2], batch.x0[1::2]
    with written(Path(out)):
        save(grid(torch.stack([ends[0], *columns, ends[1]], dim=1).flatten(0, 1), num_columns), Path(out))
    error = torch.cat([columns[0] - ends[0], columns[-1] - ends[1]]).square().mean().sqrt().item()
    back = (counted.num_evaluations - there) / len(shares)
    how = f"{type(chosen).__name__}, {there} network evaluations there and {back:.4g} back"
    print(f"{num_pairs} pairs of validation images, {path} ({weights} weights), {how}: {out}")
    print(f"  reconstructions are {error:.2g} off (root mean square, images from -1 to 1)")


def _images(data: LightningDataModule, num: int) -> Batch:
    """The first validation images."""
    batch = validation_batch(data, num)
    if len(batch.x0) < num or batch.x0.ndim < 3:
        raise ConfigurationError(
            f"{type(data).__name__}: {len(batch.x0)} validation examples of shape "
            f"{tuple(batch.x0.shape[1:])}, but {num} images are needed"
        )
    return batch


def _nearer(cond: dict[str, Tensor], share: float) -> dict[str, Any]:
    """The conditions of the nearer of the two images of each pair."""
    return {name: value[int(share > 0.5) :: 2] for name, value in cond.items()}
