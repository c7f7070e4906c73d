"""``scorelight sample``: samples of a trained model, without its YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lightning.pytorch import Trainer
from tqdm import tqdm

from scorelight.cli.common import run_command, stored_config, stored_sampler
from scorelight.data import SeedDataModule
from scorelight.denoisers.counting import CountingDenoiser
from scorelight.errors import ConfigurationError
from scorelight.evaluation.evaluator import ProgressSampler
from scorelight.evaluation.sample_grid import SampleWriter
from scorelight.samplers.base import Sampler
from scorelight.storage.runs import find_checkpoint
from scorelight.training.loading import load_module
from scorelight.training.module import ScoreModule

__all__ = ["run_sample", "sample"]


def run_sample(args: list[str]) -> None:
    """Parse with the checkpoint's own sampler as the default, so that a single flag can change it."""
    stored, _ = stored_config("sample", args)
    run_command(sample, args, set_defaults=stored_sampler(stored, args))


def sample(
    checkpoint: str,
    num_samples: int = 64,
    seed: int = 0,
    out: str = "samples",
    sampler: Sampler | None = None,
    weights: Literal["ema", "raw"] = "ema",
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
        weights: Averaged or raw weights.
        labels: Classes to draw, taken in turn (default: all of them, for a class-conditional model).
        batch_size: Samples drawn at once by each device.
        accelerator: Lightning's accelerator: auto, cpu, gpu, ...
        devices: Number of devices.
    """
    path = find_checkpoint(checkpoint)
    module = load_module(path, weights)
    counted = CountingDenoiser(module.ema.denoiser)
    module.ema.denoiser = counted  # type: ignore[assignment]
    data = SeedDataModule(num_samples, seed, batch_size, _labels(module, labels))
    trainer = Trainer(
        accelerator=accelerator,
        devices=devices,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[SampleWriter(out)],
    )
    chosen = sampler or module.sampler
    batches = -(-num_samples // (batch_size * trainer.world_size))
    with tqdm(total=batches * chosen.num_steps, desc="sampling", disable=not trainer.is_global_zero) as bar:
        module.sampler = ProgressSampler(chosen, bar)
        trainer.predict(module, data, return_predictions=False)
    if trainer.is_global_zero:
        each = counted.num_evaluations / batches
        how = f"{type(chosen).__name__}, {chosen.num_steps} steps, {each:.4g} network evaluations"
        print(f"{num_samples} samples of {path} ({weights} weights) by {how}, seed {seed}:")
        print(f"  {Path(out) / 'samples.png'}\n  {Path(out) / 'samples.npz'}")


def _labels(module: ScoreModule, labels: list[int] | None) -> list[int] | None:
    number = module.num_classes or 0
    if bad := [label for label in labels or () if not 0 <= label < number]:
        allowed = f"classes are 0 to {number - 1}" if number else "the model is not class-conditional"
        raise ConfigurationError(f"--labels {bad}: {allowed}")
    return labels or list(range(number)) or None
