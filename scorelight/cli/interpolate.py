"""``scorelight interpolate``: from one image to another through the noise that the flow turns them into."""

from __future__ import annotations

import inspect
from argparse import ArgumentError
from pathlib import Path
from typing import Literal

import torch
from jsonargparse import auto_cli
from lightning.pytorch import LightningDataModule
from torch import Tensor
from tqdm import tqdm

from scorelight.batch import Batch, as_batch
from scorelight.cli.checkpoints import find_checkpoint, load_module, read_config
from scorelight.cli.errors import explain
from scorelight.errors import ConfigurationError
from scorelight.pictures import grid, save
from scorelight.probability_flow import decode, encode, slerp

__all__ = ["interpolate", "run_interpolate"]


def run_interpolate(args: list[str]) -> None:
    """Parse with the checkpoint's own data as the default."""
    given = bool(args) and not args[0].startswith("-")
    if not given and not {"-h", "--help"} & set(args):
        raise ConfigurationError(
            "scorelight interpolate RUN_OR_CHECKPOINT ...: name the run folder or checkpoint first"
        )
    data = read_config(find_checkpoint(args[0]))[1] if given else None
    try:
        auto_cli(
            interpolate,
            args=args,
            set_defaults={"data": data} if data else None,
            prog="scorelight interpolate",
            exit_on_error=False,
            allow_abbrev=False,
        )
    except ArgumentError as error:
        roots = dict.fromkeys(inspect.signature(interpolate).parameters, interpolate)
        raise ConfigurationError(explain(str(error), roots, [f"--{name}" for name in roots])) from error


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
    _write(torch.stack([ends[0], *columns, ends[1]], dim=1).flatten(0, 1), num_columns, Path(out))
    error = torch.cat([columns[0] - ends[0], columns[-1] - ends[1]]).square().mean().sqrt().item()
    print(f"{num_pairs} pairs of validation images, {path} ({weights} weights): {out}")
    print(f"  reconstructions are {error:.2g} off (root mean square, images from -1 to 1)")


def _validation(data: LightningDataModule, num: int) -> Batch:
    """The first validation examples, as the model sees them."""
    data.prepare_data()
    data.setup("validate")
    found: list[Batch] = []
    for batch in data.val_dataloader():
        found.append(as_batch(data.on_after_batch_transfer(batch, 0)))
        if sum(len(b.x0) for b in found) >= num:
            break
    x0 = torch.cat([b.x0 for b in found])[:num]
    if len(x0) < num or x0.ndim < 3:
        raise ConfigurationError(
            f"{type(data).__name__}: {len(x0)} validation examples of shape {tuple(x0.shape[1:])}, but {num} "
            "images are needed"
        )
    return Batch(x0, {name: torch.cat([b.cond[name] for b in found])[:num] for name in found[0].cond})


def _nearer(cond: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """The conditions of the nearer of the two images of each pair."""
    return {name: value[int(share > 0.5) :: 2] for name, value in cond.items()}


def _write(images: Tensor, num_columns: int, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(grid(images, num_columns), path)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"--out {path}: cannot be written: {error}") from error
