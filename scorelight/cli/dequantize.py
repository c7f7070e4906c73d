"""``scorelight dequantize``: a learned dequantizer for a trained model, and its gain in bits/dim."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException
from tqdm import tqdm

from scorelight.cli.common import check_positive, run_on_checkpoint, stored_data, written
from scorelight.cli.launcher import check_number
from scorelight.data.access import ModelExamples, examples_of
from scorelight.denoisers.base import Denoiser
from scorelight.errors import ConfigurationError
from scorelight.evaluation.quality import evaluate_examples
from scorelight.likelihood.bits_per_dim import LikelihoodProtocol, grey_levels
from scorelight.likelihood.dequantization import Dequantizer, FlowDequantization, UniformDequantization
from scorelight.metrics import NegativeLogLikelihood
from scorelight.storage.lock import exclusive
from scorelight.storage.runs import find_checkpoint
from scorelight.training.checks import check_seed
from scorelight.training.dequantizer import DequantizerModule, load_dequantizer
from scorelight.training.lightning_private import leave_signals_to_others
from scorelight.training.loading import load_module
from scorelight.training.module import Weights
from scorelight.training.progress import StepProgressBar
from scorelight.training.shutdown import GracefulShutdown, ImmediateExit

__all__ = ["dequantize", "run_dequantize"]


def run_dequantize(args: list[str]) -> None:
    """Parse with the checkpoint's own data as the default."""
    run_on_checkpoint(dequantize, args, ["data"])


def dequantize(
    checkpoint: str,
    data: LightningDataModule | None = None,
    dequantizer: Callable[[Sequence[int]], Dequantizer] = FlowDequantization,
    num_bins: int | None = None,
    max_steps: int = 1000,
    learning_rate: float = 3e-3,
    out: str = "dequantizer.ckpt",
    resume: bool = False,
    num_images: int = 256,
    repeats: int = 1,
    weights: Weights = "ema",
    seed: int = 0,
    accelerator: str = "auto",
    devices: int = 1,
) -> None:
    """Train a dequantizer on the frozen model, and print its bits/dim next to those of uniform noise.

    Both use the same validation images, noise and protocol. The file is for `load_dequantizer` in Python,
    and `bits_per_dim(..., dequantizer=...)`.

    Args:
        checkpoint: Run folder, or a .ckpt file.
        data: Data module with the images (default: as in the checkpoint).
        dequantizer: What to train.
        num_bins: Grey levels, equally spaced from -1 to 1 (default: those of the data module, else 256).
        max_steps: Steps of training, one batch of training images each.
        learning_rate: Learning rate of the first step; it decays to 0.
        out: File to write: every 500 steps, at the end, on Ctrl-C and on SIGTERM.
        resume: Resume from the file of --out, with the dequantizer in it.
        num_images: Validation images to compare on.
        repeats: Dequantisations of each of them, averaged.
        weights: Averaged or raw weights of the model.
        seed: Seed of training and comparison.
        accelerator: Lightning's accelerator: auto, cpu, gpu, ...
        devices: Number of devices to train on.
    """
    check_seed("--seed", seed)
    check_positive(max_steps=max_steps, num_images=num_images, devices=devices)
    path, file = find_checkpoint(checkpoint), _free(Path(out), resume)
    data = stored_data(data, path)
    protocol = LikelihoodProtocol(_levels(data, num_bins), repeats=repeats)
    model = load_module(path)
    examples = _validation(data, num_images, model.shape, protocol)
    seed_everything(seed, verbose=False)
    denoiser = model.denoiser_for(weights)
    flow = load_dequantizer(file).requires_grad_() if resume else dequantizer(model.shape)
    module = DequantizerModule(denoiser, flow, protocol, learning_rate=learning_rate)
    trainer = _trainer(file, max_steps, accelerator, devices, shutdown := GracefulShutdown())
    try:
        with exclusive(file) if trainer.is_global_zero else nullcontext():
            trainer.fit(module, data, ckpt_path=file if resume else None)
    except (SIGTERMException, ImmediateExit):
        raise SystemExit(shutdown.exit_code()) from None
    if trainer.is_global_zero:
        print(f"\n{file}: {type(flow).__name__}, {max_steps} steps, for {path} ({weights} weights)")
        _compare(denoiser, flow, examples, num_images, protocol, seed, trainer.strategy.root_device)


def _free(file: Path, resume: bool) -> Path:
    """The file of --out, if it can be written without losing one that exists."""
    with written(file):
        if file.is_dir() or not os.access(file.parent, os.W_OK):
            raise OSError("it is a folder" if file.is_dir() else "no permission")
    if file.exists() and not resume:
        raise ConfigurationError(
            f"--out {file}: exists already; name a new file, or resume with --resume true"
        )
    if resume and not file.exists():
        raise ConfigurationError(
            f"--resume true: --out {file} does not exist; there is nothing to resume from"
        )
    return file


def _levels(data: LightningDataModule, num_bins: int | None) -> int:
    """Number of grey levels: as given, else that of the data, else that of 8 bits."""
    number: int | None = getattr(data, "num_bins", 256) if num_bins is None else num_bins
    if number is None:
        raise ConfigurationError(
            f"{type(data).__name__}: its data are not quantised, and need no dequantizer; if they are, add "
            "--num_bins"
        )
    return number


def _validation(
    data: LightningDataModule, num: int, shape: Sequence[int], protocol: LikelihoodProtocol
) -> ModelExamples:
    """The validation images; the first `num` are checked."""
    data.prepare_data()
    examples = examples_of(data, "val")
    batch = examples.first(num)
    if batch.x0.shape[1:] != shape:
        raise ConfigurationError(
            f"{type(data).__name__}: shape {tuple(batch.x0.shape[1:])}, but the model is for {tuple(shape)}"
        )
    grey_levels(batch.x0, protocol)
    return examples


def _trainer(file: Path, max_steps: int, accelerator: str, devices: int, shutdown: Callback) -> Trainer:
    trainer = Trainer(
        accelerator=accelerator,
        devices=devices,
        max_steps=max_steps,
        max_epochs=-1,
        gradient_clip_val=1.0,
        limit_val_batches=0,
        logger=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[StepProgressBar(), shutdown, _Saving(file)],
    )
    check_number(trainer.world_size)
    leave_signals_to_others(trainer)
    return trainer


class _Saving(Callback):
    """Writes the checkpoint: every n steps, at the end, on Ctrl-C and on SIGTERM."""

    def __init__(self, file: Path, every_n_steps: int = 500) -> None:
        self.file = file
        self.every_n_steps = every_n_steps

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step % self.every_n_steps == 0:
            trainer.save_checkpoint(self.file, weights_only=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.file, weights_only=False)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, SIGTERMException) and trainer.training:
            trainer.save_checkpoint(self.file, weights_only=False)
            rank_zero_info(f"Saved {self.file}. Rerun the same command with --resume true to resume")


def _compare(
    denoiser: Denoiser,
    flow: Dequantizer,
    examples: ModelExamples,
    num: int,
    protocol: LikelihoodProtocol,
    seed: int,
    device: torch.device,
) -> None:
    """Print bits/dim by uniform and by learned noise, and their difference, image by image."""
    metric = NegativeLogLikelihood(repeats=protocol.repeats)
    parts = torch.split(torch.arange(min(num, len(examples))), 64)
    values = []
    for noise in (UniformDequantization().to(device), flow.to(device).requires_grad_(False).eval()):
        found = [
            evaluate_examples(metric, denoiser.to(device), batch, protocol.num_bins, seed, noise)
            for batch in tqdm(examples.batches(parts, device), f"bits/dim, {noise.kind}", len(parts))
        ]
        values.append(torch.cat([rows["bits_per_dim"] for rows in found]))
    uniform, learned = values
    rows = {"uniform": uniform, "learned": learned, "uniform - learned": uniform - learned}
    print(f"{protocol.unit} of the first {len(uniform)} validation images, less is better, ± standard error:")
    for name, value in rows.items():
        error = value.std().item() / len(value) ** 0.5 if len(value) > 1 else float("nan")
        print(f"  {name:<18}{value.mean().item():.4f} ± {error:.4f}")
    settings = {key: value for key, value in asdict(protocol).items() if key != "dequantization"}
    print("  protocol: " + ", ".join(f"{key} {value}" for key, value in settings.items()))
