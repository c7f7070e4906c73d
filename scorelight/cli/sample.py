"""``scorelight sample``: samples of a trained model, without its YAML."""

from __future__ import annotations

from pathlib import Path

import torch
from tqdm import tqdm

from scorelight.cli.common import check_positive, launch, load_source, run_on_checkpoint, written
from scorelight.denoisers.base import MakeWrapper
from scorelight.denoisers.counting import CountingDenoiser
from scorelight.evaluation.samples import emptied, write_archive
from scorelight.samplers.base import Sampler
from scorelight.storage.runs import find_checkpoint
from scorelight.storage.shards import ShardStore
from scorelight.training.module import Weights

__all__ = ["run_sample", "sample"]


def run_sample(args: list[str]) -> None:
    """Parse with the checkpoint's own sampler as the default, so that a single flag can change it."""
    run_on_checkpoint(sample, args, ["sampler", "guidance"])


def sample(
    checkpoint: str,
    num_samples: int = 64,
    seed: int = 0,
    out: str = "samples",
    sampler: Sampler | None = None,
    guidance: MakeWrapper | None = None,
    weights: Weights = "ema",
    labels: list[int] | None = None,
    batch_size: int = 64,
    accelerator: str = "auto",
    devices: int = 1,
) -> None:
    """Draw samples from a trained model and write samples.png and samples.npz.

    Sample i is a function of (seed, i): batch size and number of devices do not change it.

    Args:
        checkpoint: Run folder, or a .ckpt file.
        num_samples: Number of samples.
        seed: Seed of the samples.
        out: Folder to write to.
        sampler: How to sample (default: as in the checkpoint).
        guidance: Wraps the denoiser, such as ClippedDenoiser (default: as in the checkpoint).
        weights: Averaged or raw weights.
        labels: Classes to draw, taken in turn (default: all of them, for a class-conditional model).
        batch_size: Samples drawn at once by each device.
        accelerator: Lightning's accelerator: auto, cpu, gpu, ...
        devices: Number of devices.
    """
    check_positive(num_samples=num_samples, batch_size=batch_size, devices=devices)
    path = find_checkpoint(checkpoint)
    source = load_source(path, weights, sampler, guidance, labels)
    context = launch(accelerator, devices)
    counting = CountingDenoiser(source.denoiser.to(context.device))
    batches = context.shard(torch.arange(num_samples), batch_size)
    store = ShardStore(Path(out) / "parts")
    total = len(batches) * source.sampler.num_steps
    bar = tqdm(total=total, desc="sampling", disable=not context.is_main)
    with written(Path(out)), emptied(store, context), bar:
        for index, x, cond in source._replace(denoiser=counting).draw(seed, batches, bar):
            store.write(index, x=x, **cond)
        context.barrier()
        if context.is_main:
            write_archive(store, num_samples, Path(out), seed)
    if context.is_main:
        each = counting.num_evaluations / len(batches)
        name, steps = type(source.sampler).__name__, source.sampler.num_steps
        how = f"{name}, {steps} steps, {each:.4g} network evaluations, seed {seed}"
        how += f", {type(source.denoiser).__name__}" if guidance else ""
        print(f"{num_samples} samples of {path} ({weights} weights) by {how}:")
        print(f"  {Path(out) / 'samples.png'}\n  {Path(out) / 'samples.npz'}")
