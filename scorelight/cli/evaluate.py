"""``scorelight evaluate``: any metric of a trained model, with any sampler and any number of samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule

from scorelight import __version__
from scorelight.cli.common import (
    check_positive,
    launch,
    load_source,
    run_on_checkpoint,
    stored_data,
    written,
)
from scorelight.denoisers.base import MakeWrapper
from scorelight.denoisers.execution import Precision, executed
from scorelight.errors import Stopped
from scorelight.evaluation.batch_size import BatchSize
from scorelight.evaluation.evaluator import Evaluator
from scorelight.evaluation.report import changes, markdown_table, write_report
from scorelight.metrics import FeatureExtractor, FrechetDistance, KernelDistance, Metric, PrecisionRecall
from scorelight.samplers.base import Sampler
from scorelight.storage.component import spec
from scorelight.storage.runs import find_checkpoint
from scorelight.training.dequantizer import load_dequantizer
from scorelight.training.module import Weights

__all__ = ["evaluate", "run_evaluate"]


def run_evaluate(args: list[str]) -> None:
    """Parse with the checkpoint's own settings as defaults."""
    run_on_checkpoint(evaluate, args, ["sampler", "guidance", "data"])


def evaluate(
    checkpoint: str,
    metrics: list[Metric] | None = None,
    num_samples: int = 10_000,
    seeds: list[int] | None = None,
    sampler: Sampler | None = None,
    guidance: MakeWrapper | None = None,
    weights: Weights = "ema",
    data: LightningDataModule | None = None,
    features: FeatureExtractor | None = None,
    reference: str | None = None,
    num_images: int | None = None,
    dequantizer: str | None = None,
    out: str | None = None,
    batch_size: BatchSize = 100,
    precision: Precision = "32-true",
    compile: bool = False,
    compare_float32: bool = False,
    accelerator: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
) -> None:
    """Evaluate a trained model: samples against the training set, likelihood of validation examples.

    Sample i is a function of (seed, i), and so is the noise of a likelihood: batch size and number of
    devices do not change the results. Samples and likelihoods are stored in the output folder as they are
    computed; an interrupted command resumes, and another one that needs the same samples finds them.

    Args:
        checkpoint: Run folder, or a .ckpt file.
        metrics: What to compute, such as FrechetDistance KernelDistance PrecisionRecall InceptionScore
            NegativeLogLikelihood (default: the first three).
        num_samples: Samples for each seed.
        seeds: Seeds of samples and likelihoods; means and standard errors are over them (default: 0).
        sampler: How to sample (default: as in the checkpoint).
        guidance: Wraps the denoiser, such as ClippedDenoiser (default: as in the checkpoint).
        weights: Averaged or raw weights.
        data: Data module with the real examples (default: as in the checkpoint).
        features: Feature network (default: by the shape of the data; InceptionFeatures for the usual FID).
        reference: An .npz with statistics of real examples, instead of those of the training set.
        num_images: Validation examples for likelihoods, from the first on (default: all).
        dequantizer: File of `scorelight dequantize`: learned noise in likelihoods, instead of uniform.
        out: Folder to write to (default: evaluation in the run folder).
        batch_size: Samples or examples at once on each device; auto finds what fits and is fast.
        precision: Of sampling: 32-true, or bf16-mixed, products in bf16. Likelihoods are always 32-true.
        compile: Whether to run the network through torch.compile for sampling.
        compare_float32: Evaluate samples in 32-true without compilation, too, and report the change of every
            number, with its standard error over the seeds.
        accelerator: Lightning's accelerator: auto, cpu, gpu, ...
        devices: Number of devices on each node.
        num_nodes: Number of nodes; the output folder must be on a file system that they share.
    """
    check_positive(num_samples=num_samples, num_images=num_images, batch_size=batch_size)
    check_positive(devices=devices, num_nodes=num_nodes)
    path = find_checkpoint(checkpoint)
    data, learned = stored_data(data, path), load_dequantizer(dequantizer) if dequantizer else None
    source = exact = load_source(path, weights, sampler, guidance)
    if compile:  # in place, and the likelihoods are of a network that is not
        source = load_source(path, weights, sampler, guidance)
    folder = Path(out or _run_folder(path) / "evaluation")
    context = launch(accelerator, devices, num_nodes)
    exact.denoiser.to(context.device)
    source = source._replace(denoiser=executed(source.denoiser.to(context.device), precision, compile))
    if context.local_rank == 0:
        data.prepare_data()
    context.barrier()
    options: dict[str, Any] = {
        "features": features,
        "num_samples": num_samples,
        "seeds": seeds or [0],
        "reference": reference,
        "num_examples": num_images,
        "dequantizer": learned,
        "batch_size": batch_size,
        "exact": exact.denoiser,
    }
    evaluator = Evaluator(source, data, folder, context, **options)
    metrics = metrics or _default(num_samples)
    try:
        results = evaluator.run(metrics)
        if compare_float32:
            results |= changes(results, Evaluator(exact, data, folder, context, **options).run(metrics))
    except Stopped as stopped:
        stopped.add_note(f"Finished work is stored in {folder}; rerun the same command to resume")
        raise
    if context.is_main:
        described = {"checkpoint": str(path), "weights": weights}
        described |= {"guidance": spec(guidance)} if guidance else {}
        described["precision"] = f"{precision}{', compiled' * compile}"
        protocol = described | evaluator.protocol | {"scorelight": __version__}
        with written(folder):
            report = write_report(results, protocol, folder)
        print(f"\n{markdown_table(results, protocol)}\n{report}.json\n{report}.md")
        if batch_size == "auto":
            print(f"batch size: up to {max(evaluator.batch_sizes, default=0)} on the first device")


def _default(num_samples: int) -> list[Metric]:
    return [FrechetDistance(), KernelDistance(subset_size=max(min(num_samples, 1000), 2)), PrecisionRecall()]


def _run_folder(checkpoint: Path) -> Path:
    """The run folder of a checkpoint, or the folder that it is in."""
    return checkpoint.parents[1] if checkpoint.parent.name == "checkpoints" else checkpoint.parent
