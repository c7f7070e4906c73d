"""``scorelight sample``: samples of a trained model, without its YAML."""

from __future__ import annotations

from pathlib import Path

import torch

from scorelight.cli.common import check_positive, launch, load_source, run_on_checkpoint, written
from scorelight.denoisers.base import MakeWrapper
from scorelight.denoisers.counting import CountingDenoiser
from scorelight.denoisers.execution import Precision, executed
from scorelight.evaluation.archive import write_archive
from scorelight.evaluation.batch_size import Batches, BatchSize
from scorelight.evaluation.samples import SampleSource, emptied, quantize, samples_bar
from scorelight.evaluation.stores import written_in_background
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
    labels: list[int | str] | None = None,
    batch_size: BatchSize = 64,
    precision: Precision = "32-true",
    compile: bool = False,
    accelerator: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
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
        labels: Classes to draw, taken in turn, by their numbers or names, such as 3 5 or cat dog (default:
            all of them, for a class-conditional model).
        batch_size: Samples drawn at once by each device; auto finds what fits and is fast.
        precision: 32-true, or bf16-mixed: products in bf16, which changes samples slightly; see `evaluate`.
        compile: Whether to run the network through torch.compile.
        accelerator: Lightning's accelerator: auto, cpu, gpu, ...
        devices: Number of devices on each node.
        num_nodes: Number of nodes; the folder must be on a file system that they share.
    """
    check_positive(num_samples=num_samples, batch_size=batch_size, devices=devices, num_nodes=num_nodes)
    path = find_checkpoint(checkpoint)
    source = load_source(path, weights, sampler, guidance, labels)
    guided = f", {type(source.denoiser).__name__}" if guidance else ""
    context = launch(accelerator, devices, num_nodes)
    counting = CountingDenoiser(executed(source.denoiser.to(context.device), precision, compile))
    source = source._replace(denoiser=counting)
    batches = Batches(context.share(torch.arange(num_samples)), batch_size, context.world_size)
    store = ShardStore(Path(out) / "parts")
    with written(Path(out)), emptied(store, context):
        drawn = context.agree(lambda: _draw(source, seed, batches, store, hidden=not context.is_main))
        if context.is_main:
            write_archive(store, num_samples, Path(out), seed)
    if context.is_main:
        each = counting.num_evaluations / drawn
        name, steps = type(source.sampler).__name__, source.sampler.num_steps
        how = f"{name}, {steps} steps, {each:.4g} network evaluations, seed {seed}"
        how += guided + f", {precision}" * (precision != "32-true") + ", compiled" * compile
        how += f", batches of {batches.used}" * (batch_size == "auto")
        print(f"{num_samples} samples of {path} ({weights} weights) by {how}:")
        for line in source.sampler.report():
            print(f"  {line}")
        print(f"  {Path(out) / 'samples.png'}\n  {Path(out) / 'samples.npz'}")


def _draw(source: SampleSource, seed: int, batches: Batches, store: ShardStore, hidden: bool) -> int:
    """Draw samples, while another thread stores those before; the number of batches."""
    num = 0
    with samples_bar("sampling", len(batches), hidden) as bar, written_in_background(store) as write:
        for index, (x, cond) in batches.results(lambda index: (index, source.draw(seed, index, bar))):
            write(index, x=quantize(x), **cond)
            num += 1
    return num
