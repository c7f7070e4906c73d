"""``scorelight evaluate``: any metric of a trained model, with any sampler and any number of samples."""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from lightning.fabric import Fabric
from lightning.pytorch import LightningDataModule

from scorelight import __version__
from scorelight.cli.common import (
    check_positive,
    run_command,
    stored_config,
    stored_data,
    stored_sampler,
    written,
)
from scorelight.errors import ConfigurationError
from scorelight.evaluation.evaluator import Evaluator, Result
from scorelight.evaluation.reference import DistributedContext, default_features
from scorelight.metrics import (
    FeatureExtractor,
    FrechetDistance,
    KernelDistance,
    Metric,
    PrecisionRecall,
    SampleQualityMetric,
)
from scorelight.metrics.likelihood import LikelihoodMetric
from scorelight.samplers.base import Sampler
from scorelight.storage.runs import find_checkpoint
from scorelight.training.dequantizer import load_dequantizer
from scorelight.training.loading import load_module

__all__ = ["evaluate", "run_evaluate"]


def run_evaluate(args: list[str]) -> None:
    """Parse with the checkpoint's own data and sampler as defaults; --metrics takes several names."""
    model, data = stored_config("evaluate", args)
    defaults = stored_sampler(model, args) | ({"data": data} if data else {})
    run_command(evaluate, _joined(args), set_defaults=defaults)


def _joined(args: list[str]) -> list[str]:
    """The arguments with the words after --metrics and --seeds made one list, as the parser wants it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--metrics", nargs="*")
    parser.add_argument("--seeds", nargs="*")
    several, rest = parser.parse_known_args(args)
    for name, words in vars(several).items():
        if words == []:
            raise ConfigurationError(f"--{name}: give at least one")
        if words:
            listed = words[0] if words[0].startswith(("[", "{")) else f"[{','.join(words)}]"
            rest.append(f"--{name}={listed}")
    return rest


def evaluate(
    checkpoint: str,
    metrics: list[Metric] | None = None,
    num_samples: int = 10_000,
    seeds: list[int] | None = None,
    sampler: Sampler | None = None,
    weights: Literal["ema", "raw"] = "ema",
    data: LightningDataModule | None = None,
    features: FeatureExtractor | None = None,
    reference: str | None = None,
    num_images: int | None = None,
    dequantizer: str | None = None,
    out: str | None = None,
    batch_size: int = 100,
    accelerator: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
) -> None:
    """Judge a trained model: samples against the training set, likelihood of validation examples.

    Sample i is a function of (seed, i), and so are the noises of a likelihood: batch size and number of
    devices do not change what is found. Samples and likelihoods are kept in the output folder as they are
    made; the same command goes on where it was interrupted, and another one that needs the same finds them.

    Args:
        checkpoint: Run folder, or a .ckpt file.
        metrics: What to compute, such as FrechetDistance KernelDistance PrecisionRecall InceptionScore
            NegativeLogLikelihood (default: the first three).
        num_samples: Samples for each seed.
        seeds: Seeds of samples and likelihoods; means and standard errors are over them (default: 0).
        sampler: How to sample (default: as in the checkpoint).
        weights: Averaged or raw weights.
        data: Data module with the real examples (default: as in the checkpoint).
        features: Feature network (default: by the shape of the data; InceptionFeatures for the usual FID).
        reference: An .npz with statistics of real examples, instead of those of the training set.
        num_images: Validation examples for likelihoods, from the first on (default: all).
        dequantizer: File of `scorelight dequantize`: learned noise in likelihoods, instead of uniform.
        out: Folder to write to (default: evaluation in the run folder).
        batch_size: Samples or examples at once on each device.
        accelerator: Lightning's accelerator: auto, cpu, gpu, ...
        devices: Number of devices on each node.
        num_nodes: Number of nodes.
    """
    check_positive(num_samples=num_samples, num_images=num_images, batch_size=batch_size)
    check_positive(devices=devices, num_nodes=num_nodes)
    path = find_checkpoint(checkpoint)
    data, module, chosen = (
        stored_data(data, path),
        load_module(path, weights),
        metrics or _default(num_samples),
    )
    on_samples = [m for m in chosen if isinstance(m, SampleQualityMetric)]
    on_examples = [m for m in chosen if isinstance(m, LikelihoodMetric)]
    learned = load_dequantizer(dequantizer) if dequantizer else None
    (sampler or module.sampler).levels(module.denoiser.process)
    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=num_nodes)
    fabric.launch()
    workers, folder = DistributedContext.from_fabric(fabric), Path(out) if out else _run(path) / "evaluation"
    if workers.rank == 0:
        data.prepare_data()
    fabric.barrier()
    module.to(workers.device)
    job = Evaluator(module, f"{__version__} {_digest(path)} {weights}", data, folder, batch_size, workers)
    results: dict[str, Result] = {}
    try:
        if on_samples:
            extractor = features or default_features(module.shape)
            results |= job.judge_samples(on_samples, extractor, num_samples, seeds or [0], sampler, reference)
        for metric in on_examples:
            results |= job.judge_examples(metric, seeds or [0], num_images, learned)
    except KeyboardInterrupt:
        print(f"\nStopped. What was done is kept in {folder}; the same command goes on from there")
        raise SystemExit(130) from None
    if workers.rank == 0:
        said = {"checkpoint": str(path), "weights": weights, **job.said, "scorelight": __version__}
        _report(results, said, folder)


def _default(num_samples: int) -> list[Metric]:
    return [FrechetDistance(), KernelDistance(subset_size=max(min(num_samples, 1000), 2)), PrecisionRecall()]


def _run(checkpoint: Path) -> Path:
    """The run folder of a checkpoint, or the folder where it lies."""
    return checkpoint.parents[1] if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _report(results: dict[str, Result], said: dict[str, Any], folder: Path) -> None:
    """Print the table with its protocol, and write both as JSON and Markdown."""
    found = {name: asdict(result) for name, result in results.items()}
    name = f"results-{hashlib.sha256(json.dumps([list(found), said]).encode()).hexdigest()[:8]}"
    with written(folder / name):
        (folder / f"{name}.json").write_text(
            json.dumps({"results": found, "protocol": said}, indent=2) + "\n"
        )
        (folder / f"{name}.md").write_text(_table(results, said))
    print("\n" + _table(results, said))
    print(f"{folder / name}.json\n{folder / name}.md")


def _table(results: dict[str, Result], said: dict[str, Any]) -> str:
    """Markdown, aligned so that it can be read as it is."""
    rows = [("metric", "mean", "standard error", "over")]
    for name, result in results.items():
        error = result.standard_error
        rows.append(
            (name, f"{result.value:.5g}", *(("", "") if error is None else (f"{error:.2g}", result.over)))
        )
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows]
    lines.insert(1, f"| {' | '.join('-' * width for width in widths)} |")
    return "\n".join([*lines, "", *(f"* {key}: {_said(value)}" for key, value in said.items()), ""])


def _said(value: Any) -> str:
    """A part of the protocol as a person would write it: Class(option=value)."""
    if isinstance(value, dict) and "class_path" in value:
        options = ", ".join(f"{k}={_said(v)}" for k, v in value.get("init_args", {}).items())
        return f"{value['class_path'].rpartition('.')[2]}({options})"
    return ", ".join(map(_said, value)) if isinstance(value, list) else str(value)
