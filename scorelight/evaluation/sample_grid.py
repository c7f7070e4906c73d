"""Samples during training and after it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from scorelight.batch import Seeds, as_batch
from scorelight.errors import ConfigurationError
from scorelight.evaluation.archive import write_archive
from scorelight.evaluation.context import DistributedContext
from scorelight.evaluation.run_cost import Drawing
from scorelight.evaluation.samples import SampleSource, emptied
from scorelight.images import grid, save
from scorelight.storage.shards import ShardStore
from scorelight.training.module import ScoreModule, score_module
from scorelight.training.run_folder import check_run_folder, run_folder

__all__ = ["SampleGridCallback", "SampleWriter"]


class SampleGridCallback(Callback):
    """Draws samples of the averaged weights every n steps: PNGs in the run folder, pictures in TensorBoard.

    The same seeds are drawn each time, so one sees the same samples become better. The folder
    ``samples`` also gets ``data.png``, validation examples to compare with. Samples that are not finite stop
    the run; `RollingCheckpoint` saves its state, so that it can be resumed with another sampler.

    Args:
        every_n_steps: Optimizer steps between two pictures; one more is made at the end.
        num_samples: Samples in a picture; vectors get 64 times as many points.
        seed: Seed of the samples.
    """

    def __init__(self, every_n_steps: int = 500, num_samples: int = 64, seed: int = 0) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("num_samples", num_samples)):
            if value < 1:
                raise ConfigurationError(f"samples.{name}={value}: must be at least 1")
        self.every_n_steps = every_n_steps
        self.num_samples = num_samples
        self.seed = seed
        self._drawn_at = -1
        self._folder: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the run folder."""
        folder = run_folder(trainer) if stage == "fit" else None
        self._folder = folder / "samples" if folder else None

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a picture of the data."""
        if batch_idx == 0 and not trainer.sanity_checking:
            x0 = as_batch(batch).x0
            self._write(trainer, "data", x0[: self._number(x0.shape[1:])])

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Draw every n steps; micro-batches before the first step draw nothing."""
        if trainer.global_step > 0 and trainer.global_step % self.every_n_steps == 0:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw once more at the end."""
        self._draw(trainer, pl_module)

    def drawing(self, module: ScoreModule, num_steps: int, num_validations: int) -> Drawing:
        """What the first process draws in a run, while the others wait."""
        times = math.ceil(num_steps / self.every_n_steps)
        return Drawing("pictures", self._number(module.shape), module.sampler, times, divided=False)

    def _number(self, shape: Sequence[int]) -> int:
        return self.num_samples * (64 if len(shape) == 1 else 1)

    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module, step = score_module(pl_module), trainer.global_step
        if step == self._drawn_at or not self._folder:
            return
        self._drawn_at = step
        denoiser = module.denoiser_for("ema")
        source = SampleSource(denoiser, module.sampler, module.shape, denoiser.labels)
        index = torch.arange(self._number(module.shape) if trainer.is_global_zero else 0)
        context = DistributedContext.from_trainer(trainer)
        x = context.agree(lambda: source.draw(self.seed, index)[0] if len(index) else None)
        if x is None:
            return
        picture = self._write(trainer, f"step={step:07d}", x)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("samples", picture, step)

    def _write(self, trainer: Trainer, name: str, x: Tensor) -> Tensor:
        picture = grid(x)
        if trainer.is_global_zero and self._folder:
            check_run_folder(trainer)
            self._folder.mkdir(parents=True, exist_ok=True)
            save(picture, self._folder / f"{name}.png")
        return picture


class SampleWriter(BasePredictionWriter):
    """Writes what `trainer.predict` draws over a `SeedDataModule`: see `write_archive`.

    Args:
        folder: Where to write.
        num_shown: Samples in the picture at most.
    """

    def __init__(self, folder: str | Path, num_shown: int = 256) -> None:
        super().__init__("batch")
        self.folder = Path(folder)
        self.num_shown = num_shown
        self._store = ShardStore(self.folder / "parts")
        self._owned = ExitStack()
        self._seed = self._num_written = 0

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Tensor,
        batch_indices: Sequence[int] | None,
        batch: Seeds,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Store the batch."""
        self._seed = batch.seed
        self._num_written += len(batch.indices)
        self._store.write(batch.indices, x=prediction, **batch.cond)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the folder, and remove what an interrupted run has left.

        Raises:
            ConfigurationError: If another process is writing there.
        """
        self._num_written = 0
        context = DistributedContext.from_trainer(trainer)
        self._owned.enter_context(emptied(self._store, context))

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the samples of all processes together, in order."""
        written = torch.tensor(self._num_written, device=trainer.strategy.root_device)
        num = int(trainer.strategy.reduce(written, reduce_op="sum"))
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            write_archive(self._store, num, self.folder, self._seed, self.num_shown)
        trainer.strategy.barrier()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let another process write to the folder."""
        self._owned.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let another process write to the folder."""
        self._owned.close()
