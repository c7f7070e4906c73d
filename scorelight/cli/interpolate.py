"""``scorelight interpolate``: from one image to another through the noise that the flow turns them into."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from tqdm import tqdm

from scorelight.batch import Batch
from scorelight.cli.common import run_on_checkpoint, stored_data, written
from scorelight.data.access import examples_of
from scorelight.denoisers.base import Denoiser, MakeWrapper
from scorelight.denoisers.counting import CountingDenoiser
from scorelight.errors import ConfigurationError
from scorelight.images import grid, save
from scorelight.samplers.adaptive import RK45, slerp
from scorelight.samplers.base import Sampler, final_state
from scorelight.samplers.generate import generate
from scorelight.storage.runs import find_checkpoint
from scorelight.training.loading import load_module
from scorelight.training.module import Weights

__all__ = ["interpolate", "run_interpolate"]


def run_interpolate(args: list[str]) -> None:
    """Parse with the checkpoint's own data as the default."""
    run_on_checkpoint(interpolate, args, ["guidance", "data"])


def interpolate(
    checkpoint: str,
    data: LightningDataModule | None = None,
    num_pairs: int = 8,
    num_columns: int = 10,
    out: str = "interpolation.png",
    sampler: Sampler | None = None,
    guidance: MakeWrapper | None = None,
    weights: Weights = "ema",
) -> None:
    """Encode images along the probability flow, and decode points between them: one row for each pair.

    The first and the last column are images of the validation set; next to them are their reconstructions,
    and in between the images of noises on the arc from one to the other (spherical interpolation).
    Any deterministic sampler works in both directions: --sampler DDIM --sampler.num_steps 50

    Args:
        checkpoint: Run folder, or a .ckpt file.
        data: Data module whose validation images to take (default: as in the checkpoint).
        num_pairs: Rows.
        num_columns: Columns, the two images included.
        out: Picture to write.
        sampler: How to follow the flow (default: RK45 with tolerances of 1e-5, without `denoise`).
        guidance: Wraps the denoiser, such as ClippedDenoiser (default: as in the checkpoint).
        weights: Averaged or raw weights.
    """
    path = find_checkpoint(checkpoint)
    if num_pairs < 1 or num_columns < 4:
        raise ConfigurationError(
            f"--num_pairs {num_pairs} --num_columns {num_columns}: at least 1 and 4 are needed"
        )
    module = load_module(path)
    module.guidance, chosen = guidance, sampler or RK45(denoise=False)
    counting = CountingDenoiser(module.denoiser_for(weights))
    batch = _images(stored_data(data, path), 2 * num_pairs)
    with torch.no_grad():
        noise = chosen.encode(counting, batch.x0, **batch.cond)
    encoding = counting.num_evaluations
    columns = _decode(counting, chosen, noise, batch.cond, num_columns - 2)
    first, last = batch.x0[::2], batch.x0[1::2]
    with written(Path(out)):
        save(grid(torch.stack([first, *columns, last], dim=1).flatten(0, 1), num_columns), Path(out))
    error = torch.cat([columns[0] - first, columns[-1] - last]).square().mean().sqrt().item()
    decoding = (counting.num_evaluations - encoding) / len(columns)
    cost = f"{encoding} network evaluations to encode and {decoding:.4g} to decode"
    print(f"{num_pairs} pairs of validation images, {path} ({weights} weights): {out}")
    print(f"  {type(chosen).__name__}, {cost}")
    print(f"  reconstruction error {error:.2g} (root mean square, images from -1 to 1)")


def _decode(
    denoiser: Denoiser, sampler: Sampler, noise: Tensor, cond: dict[str, Tensor], num: int
) -> list[Tensor]:
    """Images of `num` noises on the arc between each pair of noises, both ends included."""
    columns = []
    for share in tqdm(torch.linspace(0, 1, num).tolist(), desc="interpolating"):
        between = slerp(noise[::2], noise[1::2], share)
        nearer = {name: value[int(share > 0.5) :: 2] for name, value in cond.items()}
        indices = range(len(between))
        states = generate(denoiser, sampler, noise.shape[1:], 0, indices, nearer, noise=between)
        columns.append(final_state(states))
    return columns


def _images(data: LightningDataModule, num: int) -> Batch:
    """The first validation images."""
    data.prepare_data()
    batch = examples_of(data, "val").first(num)
    if len(batch.x0) < num or batch.x0.ndim < 3:
        raise ConfigurationError(
            f"{type(data).__name__}: {len(batch.x0)} validation examples of shape "
            f"{tuple(batch.x0.shape[1:])}, but {num} images are needed"
        )
    return batch
