"""``scorelight statistics``: features of real examples, for others and for another day."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from lightning.pytorch import LightningDataModule

from scorelight.cli.common import launch, run_command, written
from scorelight.data.access import examples_of
from scorelight.evaluation.reference import default_features, reference_set
from scorelight.metrics import FeatureExtractor, FrechetDistance, KernelDistance

__all__ = ["run_statistics", "statistics"]


def run_statistics(args: list[str]) -> None:
    """Parse and run."""
    run_command(statistics, args, as_positional=False)


def statistics(
    data: LightningDataModule,
    out: str,
    features: FeatureExtractor | None = None,
    split: Literal["train", "val"] = "train",
    keep_features: bool = False,
    accelerator: str = "auto",
) -> None:
    """Write mean and covariance of the features of all real examples to an .npz, as pytorch-fid has them.

    `scorelight evaluate RUN --reference FILE` and FIDCallback(reference=FILE) compare with it.

    Args:
        data: Data module with the examples.
        out: File to write: `mu`, `sigma`, the number of examples `n` and the features' `key`.
        features: Feature network (default: by the shape of the data).
        split: Which examples.
        keep_features: Write the features of each example too; all metrics but the Fréchet distance need them.
        accelerator: Lightning's accelerator: auto, cpu, gpu, ...
    """
    path = Path(out if out.endswith(".npz") else f"{out}.npz")
    data.prepare_data()
    examples = examples_of(data, split)
    context = launch(accelerator, devices=1)
    extractor = (features or default_features(examples.shape)).to(context.device)
    metrics = [KernelDistance()] if keep_features else [FrechetDistance()]
    real = reference_set(extractor, data, split, metrics, context)
    if not keep_features:
        real = replace(real, features=None, logits=None)
    with written(path):
        real.save(path)
    print(f"{path}: {real.count} examples of {examples.fingerprint()}, {extractor.key}")
